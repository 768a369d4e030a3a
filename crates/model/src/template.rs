//! Chat templates: Jinja, from the model file.
//!
//! # Design
//! Rendered by `minijinja` with Hugging Face's settings (blocks trimmed, no escaping, Python's methods of texts and maps,
//! `tojson` as Python writes JSON). A template sees `messages`, `add_generation_prompt`, `bos_token` and `eos_token`; `tools`
//! and `documents` are there and `none`; it may call `raise_exception`. Message contents are shielded first (see
//! [`crate::tokenizer`]), and what is taken out of one does not join the rest to a control token; roles are an
//! enumeration, since templates build control tokens from them.
//!
//! # Determinism
//! There is no clock: `strftime_now` is not defined. Templates that ask whether it is take the date that they bring
//! themselves; those that call it without asking fail, and the error says so.
//!
//! # Units and bounds
//! A rendering that takes more than [`FUEL`] template instructions fails.
use crate::tokenizer::{Control, MARK, Tokenizer};
use minijinja::{
    Environment, ErrorKind, State, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};

/// Template instructions one rendering may take.
pub const FUEL: u64 = 10_000_000;

const NAME: &str = "tokenizer.chat_template";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene.
    System,
    /// The human.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name in templates.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; control tokens in it are only words.
    pub content: String,
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TemplateError {
    #[error("chat template is not valid Jinja: {reason}")]
    Invalid { reason: String },
    #[error("chat template failed: {reason}")]
    Failed { reason: String },
}

/// A parsed chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
}

impl Template {
    /// Parses Jinja source.
    ///
    /// # Errors
    /// When it is not Jinja.
    pub fn new(source: String) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_fuel(Some(FUEL));
        // Errors have the same words in every build.
        environment.set_debug(false);
        environment.set_unknown_method_callback(method);
        environment.add_filter("replace", |text: String, old: String, new: String| {
            replace(&text, &old, &new)
        });
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", |value: &Value| {
            !matches!(
                value.kind(),
                ValueKind::None | ValueKind::Number | ValueKind::Bool
            )
        });
        environment.add_function("raise_exception", |reason: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment
            .add_template_owned(NAME, without_generation(&source))
            .map_err(|error| TemplateError::Invalid {
                reason: describe(&error, &source),
            })?;
        Ok(Self { environment })
    }

    /// The tokens of a conversation, ready for the assistant's answer when `answer` is set.
    ///
    /// # Errors
    /// When the template fails or refuses the conversation.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        answer: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        Ok(tokenizer.encode(&self.render(tokenizer, messages, answer)?, Control::Parsed))
    }

    /// The text of a conversation, with the marks of [`Tokenizer::shield`] in it.
    ///
    /// # Errors
    /// When the template fails or refuses the conversation.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        answer: bool,
    ) -> Result<String, TemplateError> {
        let shielded: Vec<Value> = messages
            .iter()
            .map(|message| {
                context! {
                    role => message.role.name(),
                    content => tokenizer.shield(&message.content),
                }
            })
            .collect();
        let spelling = |id: Option<u32>| id.and_then(|id| tokenizer.spelling(id));
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => shielded,
                    add_generation_prompt => answer,
                    bos_token => spelling(tokenizer.bos()),
                    eos_token => spelling(tokenizer.eos()),
                    tools => Value::from(()),
                    documents => Value::from(()),
                })
            })
            .map_err(|error| {
                let template = self.environment.get_template(NAME);
                let source = template.as_ref().map_or("", |template| template.source());
                TemplateError::Failed {
                    reason: describe(&error, source),
                }
            })
    }
}

/// Python's methods, but for the one that may join what was apart.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, minijinja::Error> {
    if let ("replace", Some(text), [old, new]) = (name, value.as_str(), arguments) {
        return Ok(replace(text, &old.to_string(), &new.to_string())?.into());
    }
    pycompat::unknown_method_callback(state, value, name, arguments)
}

/// Bytes that a text made by one filter may have.
const TEXT_MAX: usize = 1 << 24;

fn too_long() -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, "the text is too long")
}

/// Replaces all that is `old`. Where something is left out between what a message says, that becomes no control token by being
/// joined: the second part is marked as text.
fn replace(text: &str, old: &str, new: &str) -> Result<String, minijinja::Error> {
    if !new.is_empty() || old.is_empty() {
        let places = text.matches(old).count();
        let added = places.saturating_mul(new.len());
        if added.saturating_add(text.len()) > TEXT_MAX {
            return Err(too_long());
        }
        return Ok(text.replace(old, new));
    }
    let mut parts = text.split(old);
    let mut joined = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if !joined.is_empty() && !part.is_empty() && !part.starts_with(MARK) {
            joined.push(MARK);
        }
        joined.push_str(part);
    }
    Ok(joined)
}

/// JSON with the spaces that Python puts between values, or in lines that are indented by so much; keys in their order.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    for flag in ["ensure_ascii", "sort_keys"] {
        if options.get::<Option<bool>>(flag)? == Some(true) {
            let reason = format!("tojson does not have {flag}");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason));
        }
    }
    options.assert_all_used()?;
    let mut json = JsonText {
        text: String::new(),
        indent: indent.map(|indent| indent.min(INDENT_MAX)),
        values: 0,
    };
    json.put(value, 0)?;
    Ok(json.text)
}

/// The widest indentation of JSON.
const INDENT_MAX: usize = 16;
/// Values within values, at most.
const DEPTH_MAX: usize = 64;
/// Values, at most.
const VALUES_MAX: usize = 1 << 18;

/// JSON on its way.
struct JsonText {
    text: String,
    indent: Option<usize>,
    values: usize,
}

impl JsonText {
    fn put(&mut self, value: &Value, depth: usize) -> Result<(), minijinja::Error> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX || self.text.len() > TEXT_MAX {
            return Err(too_long());
        }
        match value.kind() {
            ValueKind::Map => {
                let keys: Vec<Value> = value.try_iter()?.take(VALUES_MAX).collect();
                self.list(['{', '}'], keys.len(), depth, |json, index| {
                    let key = keys[index].to_string();
                    json.text
                        .push_str(&serde_json::Value::from(key).to_string());
                    json.text.push_str(": ");
                    json.put(&value.get_item(&keys[index])?, depth + 1)
                })
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.take(VALUES_MAX).collect();
                self.list(['[', ']'], items.len(), depth, |json, index| {
                    json.put(&items[index], depth + 1)
                })
            }
            _ => {
                // Neither map nor list: nothing of it has an order.
                let plain = serde_json::to_value(value).map_err(|error| {
                    minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())
                })?;
                self.text.push_str(&plain.to_string());
                Ok(())
            }
        }
    }

    fn list(
        &mut self,
        [open, close]: [char; 2],
        count: usize,
        depth: usize,
        mut put: impl FnMut(&mut Self, usize) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        self.text.push(open);
        for index in 0..count {
            if index > 0 {
                let next = if self.indent.is_some() { "," } else { ", " };
                self.text.push_str(next);
            }
            self.line(depth + 1);
            put(self, index)?;
        }
        if count > 0 {
            self.line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}

/// What templates call for the date.
const CLOCK: &str = "strftime_now";

/// The template with blocks that only say where the assistant speaks (`generation`, of use in training) as blocks without a
/// meaning.
fn without_generation(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("{%");
        let word_at = part.len() - part.trim_start_matches(['-', '+', ' ', '\t', '\n']).len();
        let (before, rest) = part.split_at(word_at);
        let found = [("generation", "with"), ("endgeneration", "endwith")];
        let found = found.into_iter().find_map(|(word, instead)| {
            let after = rest.strip_prefix(word)?;
            let closes = after.trim_start().trim_start_matches(['-', '+']);
            closes.starts_with("%}").then_some((instead, after))
        });
        match found {
            Some((instead, after)) => text.extend([before, instead, after]),
            None => text.push_str(part),
        }
    }
    text
}

fn describe(error: &minijinja::Error, source: &str) -> String {
    let mut reason = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error
        .line()
        .and_then(|line| source.lines().nth(line.checked_sub(1)?));
    // In a macro it is a value that is not there.
    let is_unknown = error.kind() == ErrorKind::UnknownFunction || reason.contains("not callable");
    if is_unknown && line.is_some_and(|line| line.contains(CLOCK)) {
        reason = format!("it asks for the date, and there is no clock here: {CLOCK}");
    }
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}

#[cfg(test)]
mod tests;
