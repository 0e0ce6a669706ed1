//! Where the assignments of an env file stand, byte for byte as systemd reads them.

use std::ops::Range;

pub(super) const ESCAPED_IN_DOUBLE_QUOTES: &[u8] = b"\"\\`$";

/// Whether a backslash at the end of a comment continues it: it did in older versions of systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comments {
    End,
    Continue,
}

pub(super) const COMMENTS: [Comments; 2] = [Comments::End, Comments::Continue];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quote {
    Single,
    Double,
}

/// One `KEY=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) line: u32,
    pub(super) key: Range<usize>,
    /// Where the value stands, quotes included, white space around it not.
    pub(super) value: Range<usize>,
    /// What the value means.
    pub(super) text: Vec<u8>,
    /// The quotes around the whole value.
    pub(super) quote: Option<Quote>,
    pub(super) continued: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) assignments: Vec<Assignment>,
    /// The line where something begins that the end of the file does not end.
    pub(super) unended: Option<u32>,
}

pub(super) fn scan(bytes: &[u8], comments: Comments) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    while let Some(offset) = bytes[at..].iter().position(|byte| !is_space(*byte)) {
        let start = at + offset;
        if matches!(bytes[start], b'#' | b';') {
            at = end_of_comment(bytes, start, comments);
            if at > bytes.len() {
                scan.unended = Some(line_of(bytes, start));
                break;
            }
            continue;
        }
        let key_end = bytes[start..].iter().position(|byte| *byte == b'=' || is_line_end(*byte));
        let Some(key_end) = key_end.map(|offset| start + offset) else {
            break;
        };
        if bytes[key_end] != b'=' {
            at = key_end;
            continue;
        }
        let value = Reader::read(bytes, key_end + 1);
        let line = line_of(bytes, start);
        let key_length = bytes[start..key_end].iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
        if value.unended {
            scan.unended = Some(line);
        }
        at = value.at;
        scan.assignments.push(Assignment {
            line,
            key: start..start + key_length,
            quote: value.quote(),
            value: value.span,
            text: value.text,
            continued: value.continued || value.unended,
        });
    }
    scan
}

/// Returns where the comment ends, or one past the end of `bytes` when it would go on in what is added.
fn end_of_comment(bytes: &[u8], start: usize, comments: Comments) -> usize {
    let mut at = start;
    while at < bytes.len() && !is_line_end(bytes[at]) {
        let next = bytes.get(at + 1);
        let before_line_end = next.is_some_and(|next| is_line_end(*next));
        if bytes[at] != b'\\' || (before_line_end && comments == Comments::End) {
            at += 1;
        } else if next.is_none() || (before_line_end && at + 2 == bytes.len()) {
            return bytes.len() + 1;
        } else {
            at += 2;
        }
    }
    at
}

/// Reads one value, byte for byte as systemd does.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    span: Range<usize>,
    text: Vec<u8>,
    /// How much of `text` is not white space at its end.
    kept: usize,
    quoted: Vec<Quote>,
    bare: bool,
    continued: bool,
    unended: bool,
}

impl<'a> Reader<'a> {
    fn read(bytes: &'a [u8], start: usize) -> Self {
        let mut reader = Self {
            bytes,
            at: start,
            span: start..start,
            text: Vec::new(),
            kept: 0,
            quoted: Vec::new(),
            bare: false,
            continued: false,
            unended: false,
        };
        while let Some(byte) = reader.peek().filter(|byte| !is_line_end(*byte)) {
            match byte {
                b'\'' if !reader.bare => reader.quoted_part(Quote::Single),
                b'"' if !reader.bare => reader.quoted_part(Quote::Double),
                b'\\' => reader.escape(),
                // White space counts only between what it separates, and not before the first.
                b' ' | b'\t' if reader.bare => {
                    reader.text.push(byte);
                    reader.at += 1;
                }
                b' ' | b'\t' => reader.at += 1,
                _ => {
                    reader.begin();
                    reader.bare = true;
                    reader.text.push(byte);
                    reader.at += 1;
                    reader.keep();
                }
            }
        }
        reader.text.truncate(reader.kept);
        reader
    }

    fn quote(&self) -> Option<Quote> {
        match self.quoted.as_slice() {
            [only] if !self.bare => Some(*only),
            _ => None,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn begin(&mut self) {
        if self.span.is_empty() {
            self.span.start = self.at;
            self.span.end = self.at;
        }
    }

    fn keep(&mut self) {
        self.kept = self.text.len();
        self.span.end = self.at;
    }

    fn escape(&mut self) {
        self.begin();
        self.bare = true;
        self.at += 1;
        match self.peek() {
            None => self.unended = true,
            Some(byte) => {
                self.at += 1;
                if is_line_end(byte) {
                    self.continued = true;
                    self.unended = self.at == self.bytes.len();
                } else {
                    self.text.push(byte);
                }
            }
        }
        self.keep();
    }

    fn quoted_part(&mut self, quote: Quote) {
        self.begin();
        self.quoted.push(quote);
        let close = if quote == Quote::Single { b'\'' } else { b'"' };
        self.at += 1;
        loop {
            let Some(byte) = self.peek() else {
                self.unended = true;
                break;
            };
            self.at += 1;
            if byte == close {
                break;
            }
            self.continued |= is_line_end(byte);
            if byte != b'\\' || quote == Quote::Single {
                self.text.push(byte);
                continue;
            }
            match self.peek() {
                Some(next) if ESCAPED_IN_DOUBLE_QUOTES.contains(&next) => self.text.push(next),
                Some(b'\n') => self.continued = true,
                Some(next) => {
                    self.continued |= is_line_end(next);
                    self.text.extend([b'\\', next]);
                }
                // The loop finds the end of the file next.
                None => {}
            }
            self.at += 1;
        }
        self.at = self.at.min(self.bytes.len());
        self.keep();
    }
}

pub(super) fn line_of(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(bytes[..at].split(|byte| *byte == b'\n').count()).unwrap_or(u32::MAX)
}

pub(super) fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t') || is_line_end(byte)
}
