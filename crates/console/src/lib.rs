//! The web console's files, built from `console/` at the root of the repository and carried in the binary.
//!
//! # Design
//! The build script bundles the sources with npm and esbuild. Where it cannot, [`ASSETS`] is one page that says how to
//! get the console, and cargo prints a warning: a binary without npm is whole in every other respect.
#![forbid(unsafe_code)]

/// A file of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Its path below the console's address; the page is `index.html`.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Changes when its content does; letters and digits.
    pub tag: &'static str,
    /// Whether its path changes with its content, so that it may be kept for ever.
    pub is_immutable: bool,
    /// Its content.
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The file with a path, the page if it is empty.
#[must_use]
pub fn asset(path: &str) -> Option<&'static Asset> {
    let path = if path.is_empty() { "index.html" } else { path };
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_there_and_paths_are_unique() {
        let page = asset("").expect("there is a page");
        assert_eq!(page.content_type, "text/html; charset=utf-8");
        assert!(!page.is_immutable, "its path stays");
        for asset in ASSETS {
            let same = ASSETS.iter().filter(|other| other.path == asset.path);
            assert_eq!(same.count(), 1, "{}", asset.path);
            assert!(asset.tag.chars().all(|c| c.is_ascii_alphanumeric()));
        }
        assert_eq!(asset("../Cargo.toml"), None);
    }

    #[test]
    fn the_page_names_files_that_exist() {
        let page = std::str::from_utf8(asset("").unwrap().bytes).unwrap();
        let names = page.split('"').filter(|text| {
            let extension = text.rsplit_once('.').map(|(_, extension)| extension);
            matches!(extension, Some("js" | "css"))
        });
        for name in names {
            let found = asset(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(found.is_immutable, "{name}");
        }
    }
}
