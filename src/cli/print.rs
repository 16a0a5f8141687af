//! What subcommands print with: text to stdout that survives a closed pipe, notes to stderr, tables, progress bars.
//!
//! `println!` panics when `head` closes the pipe; here that ends the program quietly, and a full disk is an error. Names come from
//! files of others: control characters in them are shown, not sent to the terminal.

use crate::{Error, Result};
use console::{Term, truncate_str};
use indicatif::{ProgressBar, ProgressStyle};
use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};

/// Text with its control characters, but for line feeds, as escapes: `\u{1b}`. Terminals act on them.
pub fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\n';
    if !text.contains(acts) {
        return text.into();
    }
    text.chars().map(|c| if acts(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// An error as the one line that the program ends with, whatever a driver or a parser put into its message.
pub fn failure(error: &Error) {
    note(&format!("lowbit: {}", error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")));
}

/// Writes text to stdout.
///
/// # Errors
/// [`Error::Io`], except for a reader that went away: that ends the process with exit code 0.
pub fn stdout(text: &str) -> Result<()> {
    data(visible(text).as_bytes())
}

/// Writes bytes to stdout as they are.
///
/// # Errors
/// As [`stdout`].
pub fn data(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(source) => Err(Error::Io { path: "stdout".into(), source }),
        Ok(()) => Ok(()),
    }
}

/// Writes a value to stdout as JSON, indented, with a newline at its end.
///
/// # Errors
/// As [`stdout`].
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Io { path: "stdout".into(), source: e.into() })?;
    stdout(&(text + "\n"))
}

/// A line on stderr.
pub fn note(line: &str) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{}", visible(line));
}

/// A bar of `steps` on stderr, drawn only on a terminal.
pub fn progress(steps: u64, what: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(steps) } else { ProgressBar::hidden() };
    // The template is a constant; were it wrong, the default bar would do.
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {eta} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_string());
    bar
}

/// A bar of `total` bytes, with the rate and the time that is left.
pub fn progress_bytes(total: u64, what: &str) -> ProgressBar {
    let bar = progress(total, what);
    let template = "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Starts a bar behind what was done before, which does not count for the rate.
pub fn begin_at(bar: &ProgressBar, done: u64) {
    bar.set_position(done);
    bar.reset_eta();
}

/// What a bar is at.
pub fn at(bar: &ProgressBar, what: &str) {
    bar.set_message(visible(what).into_owned());
}

/// How a column is set.
#[derive(Clone, Copy, PartialEq)]
pub enum Align {
    Left,
    Right,
}

/// A plain-text table: a header, a rule, rows; columns as wide as their widest cell, two spaces apart.
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns.iter().map(|(name, align)| (name.to_string(), *align)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: Vec<String>) {
        // Here too, so that a column is as wide as what is shown.
        let shown = |cell: String| visible(&cell).replace('\n', "\\n");
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Adds a rule.
    pub fn rule(&mut self) {
        self.rows.push(Vec::new());
    }

    /// The text, every line ended.
    pub fn render(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let cells = self.rows.iter().chain([&header]).filter_map(|r| r.get(c));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
        let line = |cells: &[String]| {
            let mut text = String::new();
            for (c, width) in widths.iter().enumerate() {
                let cell = cells.get(c).map_or("", String::as_str);
                let pad = " ".repeat(width - cell.chars().count());
                let gap = if c == 0 { "" } else { "  " };
                match self.columns[c].1 {
                    Align::Left => text.extend([gap, cell, &pad]),
                    Align::Right => text.extend([gap, &pad, cell]),
                }
            }
            text.trim_end().to_string()
        };
        let mut lines = vec![line(&header), rule.clone()];
        lines.extend(self.rows.iter().map(|r| if r.is_empty() { rule.clone() } else { line(r) }));
        lines.join("\n") + "\n"
    }
}

/// A line as wide as the terminal at most, shortened if need be; whole if stdout is none.
pub fn fitting(line: &str) -> String {
    let line = visible(line);
    match Term::stdout().size_checked() {
        Some((_, width)) => truncate_str(&line, width.into(), "…").into_owned(),
        _ => line.into_owned(),
    }
}

/// Bytes for people: `1234 B`, `11.4 MiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// A shape as `384x1536`; `scalar` for rank 0.
pub fn shape(dims: &[usize]) -> String {
    if dims.is_empty() {
        return "scalar".into();
    }
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

/// Plus or minus: half of what lies between the quartiles, in percent.
pub fn spread([low, high]: [f64; 2], median: f64) -> String {
    format!("{:.1} %", 50.0 * (high - low) / median)
}

/// A count with what it counts: `1 tensor`, `2 tensors`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut t = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        t.row(vec!["a".into(), "100".into()]);
        t.rule();
        t.row(vec!["total".into()]);
        assert_eq!(t.render(), "name     n\n----------\na      100\n----------\ntotal\n");
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(visible("a\u{1b}[2J\u{7}\u{9b}é\n"), "a\\u{1b}[2J\\u{7}\\u{9b}é\n");
        let mut t = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        t.row(vec!["a\r\nb".into(), "1".into()]);
        assert_eq!(t.render(), "name    n\n---------\na\\r\\nb  1\n");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!((bytes(0), bytes(1023), bytes(1024)), ("0 B".into(), "1023 B".into(), "1.0 KiB".into()));
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!((shape(&[]), shape(&[2, 3])), ("scalar".into(), "2x3".into()));
    }
}
