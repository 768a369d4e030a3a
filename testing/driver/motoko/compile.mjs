// Compiles SOURCE to OUTPUT: `node compile.mjs classical|enhanced SOURCE OUTPUT`.
//
// `classical` compiles for 32-bit memories, whose stable variables go through stable memory at an upgrade;
// `enhanced` for 64-bit memories that upgrades keep. The older compiler does not know `persistent` actors: a
// source says `/*persistent*/ actor`, `/*transient*/ let` and `/*stable*/ var`, of which each compiler sees its own.
import { readFileSync, writeFileSync } from "node:fs";

const [version, source, output] = process.argv.slice(2);
const compiler = (await import(version)).default;
const keywords = version === "enhanced" ? ["persistent", "transient"] : ["stable"];
let text = readFileSync(source, "utf8");
for (const keyword of keywords) text = text.replaceAll(`/*${keyword}*/`, keyword);
compiler.write("Main.mo", text);
try {
  writeFileSync(output, compiler.wasm("Main.mo", "ic").wasm);
} catch (error) {
  // Without the place, which is a line of megabytes.
  console.error(error.message);
  process.exit(1);
}
