//! Progress on a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{borrow::Cow, time::Duration};

/// A bar over a known number of bytes, drawn on stderr when that is a terminal.
pub(crate) fn bytes(message: &'static str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
            .expect("the template is a constant");
    ProgressBar::new(total)
        .with_style(style)
        .with_message(message)
}

/// A spinner for work of unknown length.
pub(crate) fn spinner(message: impl Into<Cow<'static, str>>) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A bar over a known number of runs, with what runs now.
pub(crate) fn steps(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")
        .expect("the template is a constant");
    let bar = ProgressBar::new(total as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
