//! `tokens VOCABULARY`: reads texts from standard input, a JSON string a line, and writes a JSON line for each: the ids that
//! the tokenizer of a GGUF file, with or without tensors, gives it, and whether they make the text again. The first line says
//! whether the tokenizer is known: `null` or the error.
//!
//! `bench/tokens.py` compares the ids with llama.cpp's.
use lockstep_model::{
    file,
    gguf::Gguf,
    tokenizer::{Control, Tokenizer},
};
use std::{
    error::Error,
    io::{BufRead, stdin},
    path::PathBuf,
};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: tokens VOCABULARY")?;
    let map = file::map(&PathBuf::from(path))?;
    let tokenizer = match Tokenizer::from_metadata(&Gguf::parse(&map)?) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            println!("{}", serde_json::to_string(&error.to_string())?);
            return Ok(());
        }
    };
    println!("null");
    for line in stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids = tokenizer.encode(&text, Control::Spelled);
        let same = tokenizer.decode(&ids) == text.as_bytes();
        println!("{}", serde_json::json!({ "ids": ids, "same": same }));
    }
    Ok(())
}
