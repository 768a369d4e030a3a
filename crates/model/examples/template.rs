//! `template FILE`: reads conversations from standard input, a JSON list of messages a line, and writes for each what the chat
//! template in FILE makes of it, or the error, as JSON: `{"text": …}` or `{"error": …}`. A text begins with `<|im_start|>` and
//! ends with `<|im_end|>`.
//!
//! `bench/templates.py` compares them with what transformers makes of them.
use lockstep_model::{
    fixture,
    gguf::Gguf,
    template::{Message, Template},
    tokenizer::Tokenizer,
};
use serde_json::json;
use std::{
    error::Error,
    fs,
    io::{BufRead, stdin},
};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: template FILE")?;
    let template = Template::new(fs::read_to_string(path)?);
    let file = fixture::tiny_llama(1).build();
    let tokenizer = Tokenizer::from_metadata(&Gguf::parse(&file)?)?;
    for line in stdin().lock().lines() {
        let messages: Vec<Message> = serde_json::from_str(&line?)?;
        let answer = match &template {
            Ok(template) => template
                .render(&tokenizer, &messages, true)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(text) => println!("{}", json!({ "text": text })),
            Err(error) => println!("{}", json!({ "error": error })),
        }
    }
    Ok(())
}
