//! What is wrong with a configuration, and where.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display};

/// A part of the text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// First byte behind it.
    pub end: usize,
}

impl Span {
    /// From `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The domain starts nevertheless.
    Warning,
    /// Nothing starts.
    Error,
}

/// Something that the author of a configuration should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where, in bytes.
    pub span: Span,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// How bad.
    pub severity: Severity,
}

impl Display for Diagnostic {
    /// `LINE:COLUMN: error: MESSAGE; HINT`. The file's name and a colon go in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}:{}: {severity}: {}", self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl Diagnostic {
    /// With the file's name, the line itself and a mark under the place.
    pub fn render(&self, file: &str, text: &str) -> String {
        let line = text.lines().nth(self.line - 1).unwrap_or_default();
        let before: String =
            line.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let covered =
            text.get(self.span.start..self.span.end).unwrap_or_default().lines().next().unwrap_or_default();
        let mark = "^".repeat(covered.chars().count().max(1));
        format!("{file}:{self}\n  | {line}\n  | {before}{mark}")
    }
}

/// Collects diagnostics of one text.
#[derive(Debug)]
pub(super) struct Log<'a> {
    text: &'a str,
    found: Vec<Diagnostic>,
}

impl<'a> Log<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn error(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.add(Severity::Error, span, message.into(), hint);
    }

    pub(super) fn warning(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.add(Severity::Warning, span, message.into(), hint);
    }

    fn add(&mut self, severity: Severity, span: Span, message: String, hint: Option<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.found.push(Diagnostic { span, line, column, message, hint, severity });
    }

    /// A place for what is missing altogether.
    pub(super) fn end(&self) -> Span {
        let end = self.text.trim_end().len();
        Span::new(end, end)
    }

    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| d.span.start);
        self.found
    }
}
