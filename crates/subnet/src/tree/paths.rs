//! Which paths of the state tree a `read_state` request may ask for.
use super::Path;
use crate::{
    ingress::{Authority, DelegationError, LABELS_MAX, PATHS_MAX, RequestId},
    state::{ReplicatedState, is_canister_id},
};
use ic_principal::Principal;

/// Bytes of a path that an error quotes.
const PATH_BYTES_MAX: usize = 256;

/// What the address of a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `/canister/<id>/…`.
    Canister(Principal),
    /// `/subnet/<id>/…`.
    Subnet(Principal),
}

/// Why paths are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Too many paths or labels.
    #[error("too many paths or labels: at most {PATHS_MAX} paths of {LABELS_MAX} labels")]
    TooMany,
    /// No such path exists, or it may not be read by anybody.
    #[error("path is not readable: {path}")]
    Invalid {
        /// The path.
        path: String,
    },
    /// The request was for a canister that the signer's delegations do not name.
    #[error(transparent)]
    Delegation(#[from] DelegationError),
    /// The path is for others.
    #[error("{sender} may not read {path}: {reason}")]
    Forbidden {
        /// Who asked.
        sender: Principal,
        /// The path.
        path: String,
        /// The rule.
        reason: &'static str,
    },
}

/// Checks that a request in the name of `sender` may read `paths` at an address.
///
/// # Errors
/// [`PathError`] for the first path that may not be read.
pub fn check(
    state: &ReplicatedState,
    sender: &Principal,
    authority: &Authority,
    scope: Scope,
    paths: &[Vec<Vec<u8>>],
) -> Result<(), PathError> {
    if paths.len() > PATHS_MAX || paths.iter().any(|path| path.len() > LABELS_MAX) {
        return Err(PathError::TooMany);
    }
    let mut request = None;
    for path in paths {
        check_path(state, sender, authority, scope, path)?;
        if path[0] == b"request_status"
            && request
                .replace(&path[1])
                .is_some_and(|other| *other != path[1])
        {
            return Err(forbidden(
                sender,
                path,
                "one read shows the status of one request",
            ));
        }
    }
    Ok(())
}

fn check_path(
    state: &ReplicatedState,
    sender: &Principal,
    authority: &Authority,
    scope: Scope,
    path: &Path,
) -> Result<(), PathError> {
    let labels: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    match labels.as_slice() {
        [b"time"] | [b"lockstep", ..] | [b"subnet", ..] | [b"canister_ranges", ..] => Ok(()),
        // There are none: what is shown is that.
        [b"api_boundary_nodes", rest @ ..] if rest.len() <= 2 => Ok(()),
        [b"request_status", id] | [b"request_status", id, _] => {
            let Ok(id) = <[u8; 32]>::try_from(*id) else {
                return Err(invalid(path));
            };
            match state.history.get(&RequestId::new(&id)) {
                Some(answer) if answer.sender != *sender => Err(forbidden(
                    sender,
                    path,
                    "a request's status is for its sender",
                )),
                Some(answer) => Ok(authority.check_target(&answer.receiver)?),
                None => Ok(()),
            }
        }
        [b"canister", id, rest @ ..] => {
            let id = Principal::try_from_slice(id).map_err(|_| invalid(path))?;
            if scope != Scope::Canister(id) || !is_canister_id(&id) {
                return Err(forbidden(
                    sender,
                    path,
                    "it belongs to another canister than the address names",
                ));
            }
            check_canister_path(state, sender, &id, path, rest)
        }
        _ => Err(invalid(path)),
    }
}

fn check_canister_path(
    state: &ReplicatedState,
    sender: &Principal,
    id: &Principal,
    path: &Path,
    rest: &[&[u8]],
) -> Result<(), PathError> {
    match rest {
        [
            b"module_hash"
            | b"controllers"
            | b"canister_creation_timestamp"
            | b"last_install_timestamp",
        ] => Ok(()),
        [b"metadata", name] => {
            let Some(canister) = state.canisters().get(id) else {
                return Ok(());
            };
            let public = canister.state.installed.as_ref().is_none_or(|installed| {
                let section = std::str::from_utf8(name)
                    .ok()
                    .and_then(|name| installed.module.metadata().get(name));
                section.is_none_or(|(public, _)| *public)
            });
            if public || canister.state.controllers.contains(sender) {
                Ok(())
            } else {
                Err(forbidden(
                    sender,
                    path,
                    "private metadata is for controllers",
                ))
            }
        }
        _ => Err(invalid(path)),
    }
}

fn invalid(path: &Path) -> PathError {
    PathError::Invalid { path: text(path) }
}

fn forbidden(sender: &Principal, path: &Path, reason: &'static str) -> PathError {
    PathError::Forbidden {
        sender: *sender,
        path: text(path),
        reason,
    }
}

/// The path for people: words as they are, other labels in hexadecimal, and no more than [`PATH_BYTES_MAX`] of it.
fn text(path: &Path) -> String {
    let mut text = String::new();
    for label in path {
        // A label that is cut here is too long for the text, too.
        let label = &label[..label.len().min(PATH_BYTES_MAX)];
        text.push('/');
        match std::str::from_utf8(label) {
            Ok(word) if word.bytes().all(|byte| byte.is_ascii_graphic()) => text.push_str(word),
            _ => text.push_str(&hex::encode(label)),
        }
        if text.len() > PATH_BYTES_MAX {
            text.truncate(PATH_BYTES_MAX);
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_quote_a_path_no_longer_than_it_is_of_use() {
        let short = [b"canister".to_vec(), vec![0xff, 1], b"a b".to_vec()];
        assert_eq!(text(&short), "/canister/ff01/612062");
        let whole = [vec![b'a'; PATH_BYTES_MAX - 1]];
        assert_eq!(text(&whole).len(), PATH_BYTES_MAX);
        for long in [vec![b'a'; 1 << 20], vec![0; 1 << 20]] {
            for path in [vec![long.clone()], vec![b"time".to_vec(), long]] {
                let text = text(&path);
                assert_eq!(text.len(), PATH_BYTES_MAX + '…'.len_utf8());
                assert!(text.ends_with('…'));
            }
        }
        assert!(text(&vec![Vec::new(); LABELS_MAX]).len() <= PATH_BYTES_MAX);
    }
}
