//! `lockstep pull hf:REPO/FILE`: a file of Hugging Face's hub, over HTTP.
//!
//! # Design
//! A first request, whose redirection is not followed, gives size and tag; the tag of a large file is its SHA-256. A
//! second one gives the bytes, from wherever the hub keeps them; the token stays with the hub. As with the hub's own
//! clients, `HF_ENDPOINT` names another hub, and the token is `HF_TOKEN` or what a login has left in `HF_HOME`.

use crate::{
    error::Failure,
    output, progress,
    store::{Origin, Store, alias_of},
};
use anyhow::Result;
use etcetera::BaseStrategy as _;
use lockstep_model::file;
use sha2::{Digest as _, Sha256};
use std::{
    env, fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::{Agent, Body, http::Response};

/// The hub when none is named.
const ENDPOINT: &str = "https://huggingface.co";
/// A renamed repository is found after one redirection within the hub.
const MOVES_MAX: usize = 4;

/// What a name on the command line begins with.
pub(super) const PREFIX: &str = "hf:";

/// A file in a repository; of a model in several files, the first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    repository: String,
    file: String,
}

impl Address {
    fn parse(name: &str) -> Result<Self> {
        let parse = || {
            let rest = name.strip_prefix(PREFIX)?;
            let (owner, rest) = rest.split_once('/')?;
            let (repository, file) = rest.split_once('/')?;
            let plain = |part: &str| {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                !part.is_empty() && part.bytes().all(known) && !part.starts_with('.')
            };
            let whole = plain(owner) && plain(repository) && file.split('/').all(plain);
            whole.then(|| Self {
                repository: format!("{owner}/{repository}"),
                file: file.to_owned(),
            })
        };
        parse().ok_or_else(|| {
            Failure::user(format!("not a file on the hub: {name}"))
                .hint("hf:OWNER/REPOSITORY/FILE.gguf")
                .into()
        })
    }

    /// The names of the model's files.
    fn files(&self) -> Vec<String> {
        let parts = file::parts(Path::new(&self.file));
        let name = |path: PathBuf| path.to_string_lossy().into_owned();
        parts.into_iter().map(name).collect()
    }
}

/// Fetches a model into the store.
pub(super) fn fetch(store: &Store, name: &str, alias: Option<&str>) -> Result<PathBuf> {
    let address = Address::parse(name)?;
    if !address.file.ends_with(".gguf") {
        return Err(Failure::user(format!("not a .gguf file: {}", address.file))
            .hint("of a checkpoint, fetch the whole directory and give it to `lockstep pull`")
            .into());
    }
    let partial = store.partial()?;
    let hub = Hub::from_environment();
    let mut files = Vec::new();
    for (index, file) in address.files().iter().enumerate() {
        let place = partial.path().join(format!("fetched-{index}"));
        let url = format!(
            "{}/{}/resolve/main/{file}",
            hub.endpoint, address.repository
        );
        hub.fetch(&url, file, &place, name)?;
        files.push(place);
    }
    let alias = alias.map_or_else(|| alias_of(Path::new(&address.file)), str::to_owned);
    store.add(&files, &alias, Origin::Moved, |_| ())
}

struct Hub {
    endpoint: String,
    token: Option<String>,
}

/// What the hub says of a file.
struct Said {
    size: Option<u64>,
    sha256: Option<String>,
}

impl Hub {
    fn from_environment() -> Self {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = || {
            let cache = || Some(etcetera::choose_base_strategy().ok()?.cache_dir());
            let named = named("HF_HOME").map(PathBuf::from);
            named.or_else(|| Some(cache()?.join("huggingface")))
        };
        let kept = || fs::read_to_string(home()?.join("token")).ok();
        let token = named("HF_TOKEN").or_else(kept);
        let endpoint = named("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
        }
    }

    fn agent(redirections: u32) -> Agent {
        let limit = Some(Duration::from_secs(60));
        let config = Agent::config_builder()
            .max_redirects(redirections)
            .max_redirects_will_error(redirections > 0)
            .timeout_connect(limit)
            .timeout_recv_response(limit)
            .build();
        Agent::new_with_config(config)
    }

    /// Writes a file to `place` and checks it.
    fn fetch(&self, url: &str, file: &str, place: &Path, name: &str) -> Result<()> {
        let (url, said) = self.ask(url).map_err(|error| unfetched(name, &error))?;
        let mut response = self
            .request(&Self::agent(10), false, &url)
            .map_err(|error| unfetched(name, &error))?;
        let length = header(&response, "content-length").and_then(|text| text.parse().ok());
        let wanted = said.size.or(length);
        let bar = progress::bytes("downloading", wanted.unwrap_or_default());
        let mut to = fs::File::create(place).map_err(|error| output::unwritable(place, &error))?;
        let mut from = response.body_mut().as_reader();
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let count = from
                .read(&mut buffer)
                .map_err(|error| unfetched(name, &error))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            to.write_all(&buffer[..count])
                .map_err(|error| output::unwritable(place, &error))?;
            size += count as u64;
            bar.set_position(size);
        }
        bar.finish_and_clear();
        if wanted.is_some_and(|wanted| wanted != size) {
            let wanted = wanted.unwrap_or_default();
            return Err(damaged(file, "bytes", &wanted, &size));
        }
        let found = hex::encode(hasher.finalize());
        match said.sha256 {
            Some(wanted) if wanted != found => Err(damaged(file, "SHA-256", &wanted, &found)),
            _ => Ok(()),
        }
    }

    /// Asks about the file at `url`; says where in the hub it is now.
    fn ask(&self, url: &str) -> Result<(String, Said), ureq::Error> {
        let agent = Self::agent(0);
        let mut url = url.to_owned();
        for _ in 0..MOVES_MAX {
            let response = self.request(&agent, true, &url)?;
            let moved = header(&response, "location").filter(|place| place.starts_with('/'));
            if let (true, Some(place)) = (response.status().is_redirection(), moved) {
                url = format!("{}{place}", self.endpoint);
                continue;
            }
            return Ok((url, said(&response)));
        }
        Err(ureq::Error::TooManyRedirects)
    }

    fn request(&self, agent: &Agent, head: bool, url: &str) -> Result<Response<Body>, ureq::Error> {
        let mut request = match head {
            true => agent.head(url),
            false => agent.get(url),
        };
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call()
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn said(response: &Response<Body>) -> Said {
    let whole = !response.status().is_redirection();
    let size = header(response, "x-linked-size")
        .or_else(|| header(response, "content-length").filter(|_| whole));
    let tag = header(response, "x-linked-etag").or_else(|| header(response, "etag"));
    let tag = tag.map(|tag| tag.trim_matches('"').to_ascii_lowercase());
    // Small files have another digest for a tag, of another length.
    let is_sha256 =
        |tag: &String| tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    Said {
        size: size.and_then(|text| text.parse().ok()),
        sha256: tag.filter(is_sha256),
    }
}

fn damaged(
    name: &str,
    what: &str,
    wanted: &dyn std::fmt::Display,
    found: &dyn std::fmt::Display,
) -> anyhow::Error {
    Failure::environment(format!(
        "the hub's file is damaged: {name}: {what} {wanted} expected, found {found}"
    ))
    .hint("the download may have been cut; try again")
    .into()
}

fn unfetched(name: &str, error: &dyn std::fmt::Display) -> anyhow::Error {
    Failure::environment(format!("cannot fetch {name}: {error}"))
        .hint(
            "check the name and the network; HF_ENDPOINT names another hub, HF_TOKEN opens what is not public. Or copy \
             the file here and run `lockstep pull FILE`",
        )
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_owner_a_repository_and_a_file() {
        let address = Address::parse("hf:owner/repo.x/folder/a-00001-of-00002.gguf").unwrap();
        assert_eq!(address.repository, "owner/repo.x");
        assert_eq!(
            address.files(),
            [
                "folder/a-00001-of-00002.gguf",
                "folder/a-00002-of-00002.gguf"
            ]
        );
        for none in [
            "hf:",
            "hf:a/b",
            "hf:a//c",
            "hf:a/b/",
            "hf:../b/c",
            "hf:a/b/../c",
            "hf:a/b/c?d",
        ] {
            assert!(Address::parse(none).is_err(), "{none}");
        }
    }
}
