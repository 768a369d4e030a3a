//! Lines that begin with a slash.

use super::session::Session;
use crate::{choice::thousandths, error::Failure, text};
use anyhow::Result;
use lockstep_model::{Digest, Message};
use serde::{Deserialize, Serialize};
use std::{ops::ControlFlow, path::Path};

const HELP: &str = "\
/save FILE          write the conversation as JSON
/load FILE          go on with a conversation that was saved
/adapter FILE|none  change the model by an adapter
/seed N             seed of the sampler
/temperature X      0 always takes the most likely token
/system TEXT        set the scene; without TEXT, take it away
/clear              forget the conversation but the scene
/help               this
/quit               end";

/// The format of saved conversations.
const FORMAT_VERSION: u32 = 1;

/// A conversation as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format_version: u32,
    /// The model that it was held with.
    model: Digest,
    messages: Vec<Message>,
}

/// What a line wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Save(String),
    Load(String),
    Adapter(Option<String>),
    Seed(u64),
    Temperature(f64),
    System(String),
    Clear,
    Help,
    Quit,
}

impl Command {
    /// Reads a line that begins with a slash.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        let needs = |what: &str| {
            Failure::user(format!("{name} takes {what}: {argument}"))
                .hint("/help lists the commands")
        };
        let file = || match argument {
            "" => Err(needs("a file")),
            file => Ok(file.to_owned()),
        };
        let alone = |command| match argument {
            "" => Ok(command),
            _ => Err(needs("nothing")),
        };
        let command = match name {
            "/save" => Self::Save(file()?),
            "/load" => Self::Load(file()?),
            "/adapter" => Self::Adapter(Some(file()?).filter(|file| file != "none")),
            "/seed" => Self::Seed(argument.parse().map_err(|_| needs("a whole number"))?),
            "/temperature" => Self::Temperature(argument.parse().map_err(|_| needs("a number"))?),
            "/system" => Self::System(argument.to_owned()),
            "/clear" => alone(Self::Clear)?,
            "/help" => alone(Self::Help)?,
            "/quit" => alone(Self::Quit)?,
            _ => {
                return Err(Failure::user(format!("unknown command: {name}"))
                    .hint("/help lists the commands")
                    .into());
            }
        };
        Ok(command)
    }

    /// Does it; breaks when the conversation ends.
    pub(super) fn run(self, session: &mut Session) -> Result<ControlFlow<()>> {
        match self {
            Self::Save(file) => save(session, Path::new(&file))?,
            Self::Load(file) => load(session, Path::new(&file))?,
            Self::Adapter(file) => session.set_adapter(file.as_deref())?,
            Self::Seed(seed) => session.sampling.seed = seed,
            Self::Temperature(value) => {
                session.sampling.temperature_milli = thousandths("/temperature", value)?;
            }
            Self::System(text) => session.set_system(&text),
            Self::Clear => session.clear(),
            Self::Help => eprintln!("{HELP}"),
            Self::Quit => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn save(session: &Session, path: &Path) -> Result<()> {
    let saved = Saved {
        format_version: FORMAT_VERSION,
        model: session.model_digest(),
        messages: session.messages.clone(),
    };
    let mut json = serde_json::to_string_pretty(&saved)?;
    json.push('\n');
    text::write(path, json.as_bytes())
}

fn load(session: &mut Session, path: &Path) -> Result<()> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::user(format!(
            "not a saved conversation: {}: {reason}",
            path.display()
        ))
    };
    let saved: Saved = serde_json::from_str(&text::read(path)?).map_err(|error| wrong(&error))?;
    if saved.format_version != FORMAT_VERSION {
        let reason = format!("format version {}", saved.format_version);
        return Err(wrong(&reason).into());
    }
    if saved.model != session.model_digest() {
        eprintln!(
            "note: the conversation was held with another model: {}",
            saved.model
        );
    }
    session.messages = saved.messages;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_say_what_they_lack() {
        let parse = |line: &str| Command::parse(line).unwrap();
        assert_eq!(parse("/save a b.json"), Command::Save("a b.json".into()));
        assert_eq!(parse("/adapter none"), Command::Adapter(None));
        assert_eq!(
            parse("/adapter x.gguf"),
            Command::Adapter(Some("x.gguf".into()))
        );
        assert_eq!(parse("/seed 7"), Command::Seed(7));
        assert_eq!(parse("/temperature 0.5"), Command::Temperature(0.5));
        assert_eq!(parse("/system"), Command::System(String::new()));
        assert_eq!(
            parse("/system  be brief "),
            Command::System("be brief".into())
        );
        assert_eq!(parse("/quit"), Command::Quit);
        let error = |line: &str| Command::parse(line).unwrap_err().to_string();
        assert_eq!(error("/save"), "/save takes a file: ");
        assert_eq!(error("/seed x"), "/seed takes a whole number: x");
        assert_eq!(error("/clear all"), "/clear takes nothing: all");
        assert_eq!(error("/sing"), "unknown command: /sing");
    }
}
