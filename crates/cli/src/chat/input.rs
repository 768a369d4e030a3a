//! Lines: edited at a terminal, or as they come.

use crate::{error::Failure, store};
use anyhow::{Context as _, Result};
use rustyline::{DefaultEditor, error::ReadlineError};
use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _},
    path::PathBuf,
};

/// The file in the data directory that keeps what was typed.
const HISTORY: &str = "chat_history";

/// What there is to read.
pub(super) enum Line {
    Text(String),
    /// Ctrl-c at the prompt.
    Interrupted,
    End,
}

/// Where lines come from.
pub(super) enum Input {
    Terminal {
        editor: Box<DefaultEditor>,
        history: PathBuf,
    },
    Piped {
        /// Lines read.
        count: usize,
    },
}

impl Input {
    /// The terminal if there is one, with its history.
    pub(super) fn open() -> Result<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Piped { count: 0 });
        }
        let history = store::data_directory()?.join(HISTORY);
        let mut editor = DefaultEditor::new().context("opening the terminal")?;
        if history.exists()
            && let Err(error) = editor.load_history(&history)
        {
            eprintln!("warning: cannot read {}: {error}", history.display());
        }
        let editor = Box::new(editor);
        Ok(Self::Terminal { editor, history })
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// The next line.
    pub(super) fn next(&mut self) -> Result<Line> {
        match self {
            Self::Terminal { editor, history } => match editor.readline("> ") {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        remember(editor, history, &line);
                    }
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("reading from the terminal"),
            },
            Self::Piped { count } => {
                let mut line = Vec::new();
                let read = io::stdin().lock().read_until(b'\n', &mut line);
                if read.context("reading standard input")? == 0 {
                    return Ok(Line::End);
                }
                *count += 1;
                String::from_utf8(line).map(Line::Text).map_err(|_| {
                    Failure::user(format!("line of standard input is not UTF-8: {count}")).into()
                })
            }
        }
    }
}

/// Keeps a line for later conversations; one that cannot be kept is no reason to end this one.
fn remember(editor: &mut DefaultEditor, history: &PathBuf, line: &str) {
    let kept = editor.add_history_entry(line).and_then(|_| {
        if let Some(folder) = history.parent() {
            fs::create_dir_all(folder)?;
        }
        editor.append_history(history)
    });
    if let Err(error) = kept {
        eprintln!("warning: cannot write {}: {error}", history.display());
    }
}
