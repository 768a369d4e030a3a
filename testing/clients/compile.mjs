// Compiles a Motoko source: `node compile.mjs SOURCE OUTPUT`.
import compiler from "motoko";
import { readFileSync, writeFileSync } from "node:fs";

const [source, output] = process.argv.slice(2);
compiler.write("Main.mo", readFileSync(source, "utf8"));
try {
  writeFileSync(output, compiler.wasm("Main.mo", "ic").wasm);
} catch (error) {
  // Without the place, which is a line of megabytes.
  console.error(error.message);
  process.exit(1);
}
