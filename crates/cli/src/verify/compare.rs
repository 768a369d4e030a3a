//! What the runs of `lockstep verify --self` gave, as a table and as JSON.

use super::plan::Planned;
use crate::error::Failure;
use lockstep_model::{Digest, selfcheck::Difference};
use serde_json::{Value, json};

/// Hexadecimal digits of a digest in the table.
const DIGITS: usize = 16;

/// A run and its digest.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) run: Planned,
    pub(crate) digest: Digest,
    pub(crate) seconds: f64,
}

/// The first line of the table.
pub(crate) fn heading() -> String {
    line(
        [
            "isa",
            "threads",
            "chunk",
            "batch",
            "prompt",
            "generated",
            "digest",
            "seconds",
        ]
        .map(str::to_owned),
    )
}

fn line([isa, threads, chunk, batch, prompt, tokens, digest, seconds]: [String; 8]) -> String {
    format!(
        "{isa:<13}  {threads:>7}  {chunk:>5}  {batch:>5}  {prompt:>6}  {tokens:>9}  {digest:<DIGITS$}  {seconds:>7}"
    )
}

impl Row {
    /// The run's line of the table.
    pub(crate) fn line(&self) -> String {
        let run = &self.run;
        line([
            run.machine(),
            run.threads.to_string(),
            run.chunk.to_string(),
            run.batch.to_string(),
            run.coverage.prompt.to_string(),
            run.coverage.tokens.to_string(),
            self.digest.to_string()[..DIGITS].to_owned(),
            format!("{:.1}", self.seconds),
        ])
    }

    /// The run as JSON.
    pub(crate) fn json(&self) -> Value {
        let run = &self.run;
        json!({
            "machine": run.machine(),
            "isa": run.isa.name(),
            "threads": run.threads,
            "prefill_chunk": run.chunk,
            "batch": run.batch,
            "prompt_tokens": run.coverage.prompt,
            "tokens": run.coverage.tokens,
            "digest": self.digest,
            "seconds": self.seconds,
        })
    }
}

/// The first row whose digest is not that of the first row of its coverage, behind that one.
pub(crate) fn first_unequal(rows: &[Row]) -> Option<[&Row; 2]> {
    rows.iter().find_map(|row| {
        let mut alike = rows
            .iter()
            .filter(|other| other.run.coverage == row.run.coverage);
        let first = alike.next().filter(|first| first.digest != row.digest)?;
        Some([first, row])
    })
}

/// The failure that two runs which differ are; `difference` is what traces of both say.
pub(crate) fn failure([first, other]: [&Row; 2], difference: Option<&Difference>) -> Failure {
    let place = match difference {
        Some(difference) => format!("first in {difference}"),
        None => "though not when they ran once more".to_owned(),
    };
    let [first, other] = [&first.run, &other.run];
    Failure::environment(format!("results differ, {place}: {first}; {other}"))
        .hint("do not run a replica on this machine")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::plan::{Coverage, Place};
    use lockstep_numeric::Isa;

    fn row(isa: Isa, prompt: usize, digest: &[u8]) -> Row {
        let coverage = Coverage { prompt, tokens: 8 };
        Row {
            run: Planned {
                place: Place::Native,
                isa,
                threads: 2,
                chunk: 64,
                batch: 1,
                coverage,
            },
            digest: Digest::of(digest),
            seconds: 1.5,
        }
    }

    #[test]
    fn rows_are_compared_within_their_coverage() {
        let mut rows = vec![
            row(Isa::Avx512, 640, b"whole"),
            row(Isa::Avx2, 640, b"whole"),
            row(Isa::Avx2, 48, b"short"),
            row(Isa::Portable, 48, b"short"),
        ];
        assert!(first_unequal(&rows).is_none());
        rows.push(row(Isa::Portable, 48, b"whole"));
        rows.push(row(Isa::Portable, 640, b"short"));
        let [first, other] = first_unequal(&rows).unwrap();
        assert_eq!((first.run, other.run), (rows[2].run, rows[4].run));
    }

    #[test]
    fn a_failure_names_the_operation_and_both_runs() {
        let rows = [row(Isa::Avx512, 48, b"a"), row(Isa::Avx2, 48, b"b")];
        let unequal = first_unequal(&rows).unwrap();
        let difference = Difference {
            operation: 4,
            name: "blk.0.attn_k".to_owned(),
            position: 17,
        };
        assert_eq!(
            failure(unequal, Some(&difference)).to_string(),
            "results differ, first in operation 4 (blk.0.attn_k) at position 17: \
             avx512, threads 2, prefill chunk 64, batch 1; avx2, threads 2, prefill chunk 64, batch 1"
        );
        assert!(
            failure(unequal, None)
                .to_string()
                .contains("though not when")
        );
    }

    #[test]
    fn lines_are_as_wide_as_the_heading() {
        let line = row(Isa::NeonDotprod, 640, b"whole").line();
        assert_eq!(line.len(), heading().len());
        let words: Vec<&str> = line.split_whitespace().collect();
        let digest = &Digest::of(b"whole").to_string()[..16];
        assert_eq!(
            words,
            ["neondotprod", "2", "64", "1", "640", "8", digest, "1.5"]
        );
    }
}
