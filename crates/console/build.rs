//! Bundles the console with npm and esbuild, in a folder of the build's: nothing is written into the source tree.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the bundle is made of, below `console/`. Tests and documents are not.
const SOURCES: [&str; 6] = [
    "package.json",
    "package-lock.json",
    "build.mjs",
    "index.html",
    "style.css",
    "src",
];

const NOTICE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Lockstep: no console</title>
<h1>This binary was built without the console</h1>
<p>Everything else works. The console is bundled when the binary is built, which needs Node.js 20 or newer with npm, and
packages that npm fetches. Install them and build again:</p>
<pre>touch console/package.json
cargo build --release --workspace</pre>
"#;

fn main() {
    let manifest =
        PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let console = manifest
        .join("../../console")
        .canonicalize()
        .expect("the crate lies in its repository");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", console.join(source).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let folder = out.join("console");
    let bundle = match install(&console, &folder) {
        Ok(()) => bundle(&folder),
        Err(reason) => {
            println!("cargo::warning=the binary gets no console: {reason}");
            notice(&folder)
        }
    };
    fs::write(out.join("assets.rs"), listing(&bundle)).expect("OUT_DIR can be written");
}

/// Copies the sources and fetches the packages that they need; says why if that is impossible here.
fn install(console: &Path, folder: &Path) -> Result<(), String> {
    for part in ["src", "dist"] {
        // It may not be there yet.
        let _ = fs::remove_dir_all(folder.join(part));
    }
    fs::create_dir_all(folder).expect("OUT_DIR can be written");
    for source in SOURCES {
        copy(&console.join(source), &folder.join(source));
    }
    // Packages take longer than the bundle, and change rarely.
    let wanted = fs::read(folder.join("package-lock.json")).expect("it was just copied");
    let stamp = folder.join("installed-lock.json");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let installed = Command::new("npm")
        .args([
            "ci",
            "--omit=dev",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ])
        .args(["--prefer-offline", "--fetch-retries=1"])
        .current_dir(folder)
        .output()
        .map_err(|error| format!("npm does not run: {error}"))?;
    if !installed.status.success() {
        let messages = String::from_utf8_lossy(&installed.stderr);
        let first = messages.lines().find(|line| !line.trim().is_empty());
        return Err(format!(
            "npm ci fails: {}",
            first.unwrap_or("it does not say why")
        ));
    }
    fs::write(stamp, wanted).expect("OUT_DIR can be written");
    Ok(())
}

/// Bundles; returns the folder of the products. Packages are there, so that failing is an error of ours.
fn bundle(folder: &Path) -> PathBuf {
    let bundled = Command::new("node")
        .arg("build.mjs")
        .current_dir(folder)
        .output()
        .expect("node comes with npm");
    let messages = String::from_utf8_lossy(&bundled.stderr);
    assert!(
        bundled.status.success(),
        "the console does not build:\n{messages}"
    );
    folder.join("dist")
}

fn notice(folder: &Path) -> PathBuf {
    let bundle = folder.join("dist");
    fs::create_dir_all(&bundle).expect("OUT_DIR can be written");
    fs::write(bundle.join("index.html"), NOTICE).expect("OUT_DIR can be written");
    fs::write(bundle.join("manifest.txt"), "index.html\tnotice\n").expect("OUT_DIR can be written");
    bundle
}

/// Rust for the files that the manifest of a bundle lists, a path and a tag per line.
fn listing(bundle: &Path) -> String {
    let manifest =
        fs::read_to_string(bundle.join("manifest.txt")).expect("a bundle has a manifest");
    let mut code = "/// All files.\npub const ASSETS: &[Asset] = &[\n".to_owned();
    for line in manifest.lines() {
        let (path, tag) = line.split_once('\t').expect("a path and a tag");
        let file = bundle.join(path);
        let content_type = match file.extension().and_then(|extension| extension.to_str()) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => panic!("no media type is known for {path}"),
        };
        let is_immutable = path.contains(tag);
        code.push_str(&format!(
            "    Asset {{ path: {path:?}, content_type: {content_type:?}, tag: {tag:?}, \
             is_immutable: {is_immutable}, bytes: include_bytes!({file:?}) }},\n"
        ));
    }
    code.push_str("];\n");
    code
}

fn copy(from: &Path, to: &Path) {
    let failed = |error| panic!("copy {} to {}: {error}", from.display(), to.display());
    if !from.is_dir() {
        fs::copy(from, to).unwrap_or_else(failed);
        return;
    }
    fs::create_dir_all(to).unwrap_or_else(|error| panic!("create {}: {error}", to.display()));
    let entries =
        fs::read_dir(from).unwrap_or_else(|error| panic!("read {}: {error}", from.display()));
    for entry in entries {
        let name = entry
            .unwrap_or_else(|error| panic!("read {}: {error}", from.display()))
            .file_name();
        copy(&from.join(&name), &to.join(&name));
    }
}
