//! Server-sent events, as far as a chat stream needs them: the payloads of `data` lines, wherever the network cut them.

/// Longest event in bytes; a server that never ends a line must not fill the memory.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Takes a byte stream apart into events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_carriage_return: bool,
}

/// A single event that is longer than is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct TooLong;

impl Parser {
    /// Takes the next bytes and returns the payloads of the events they complete, oldest first.
    ///
    /// Lines end with LF, CRLF or CR; several `data` lines of an event are joined by LF; comments and other fields are
    /// passed over. Bytes that are no UTF-8 are replaced, so that the reader of the payload decides what they mean.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half_of_crlf = std::mem::take(&mut self.after_carriage_return) && byte == b'\n';
            match byte {
                b'\n' if second_half_of_crlf => {}
                b'\n' | b'\r' => {
                    self.after_carriage_return = byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    /// Returns whether an event has begun that is not complete.
    pub(super) fn is_inside_event(&self) -> bool {
        !self.line.is_empty() || self.data.is_some()
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take().map(|data| String::from_utf8_lossy(&data).into_owned());
        }
        let value = line.strip_prefix(b"data:").or((line == b"data").then_some(&[][..]))?;
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pieces: &[&[u8]], expected: &[&str], inside_event: bool) {
        let mut parser = Parser::default();
        let events: Vec<String> = pieces.iter().flat_map(|piece| parser.push(piece).unwrap()).collect();
        assert_eq!(events, expected);
        assert_eq!(parser.is_inside_event(), inside_event);
    }

    #[test]
    fn an_event_ends_at_an_empty_line() {
        check(&[b"data: one\n\ndata: two\n\n"], &["one", "two"], false);
    }

    #[test]
    fn all_three_line_ends_are_understood() {
        check(&[b"data: a\r\n\r\ndata: b\r\rdata: c\n\n"], &["a", "b", "c"], false);
    }

    #[test]
    fn a_line_end_cut_in_two_is_one_line_end() {
        check(&[b"data: a\r", b"\n\r", b"\ndata: b\r", b"\n\r\n"], &["a", "b"], false);
    }

    #[test]
    fn several_data_lines_make_one_payload() {
        check(&[b"data: a\ndata:b\ndata\n\n"], &["a\nb\n"], false);
    }

    #[test]
    fn comments_and_other_fields_are_passed_over() {
        check(&[b": ping\nevent: token\nid: 7\nretry: 1\ndata: a\n\n: ping\n\n"], &["a"], false);
    }

    #[test]
    fn only_one_blank_after_the_colon_is_dropped() {
        check(&[b"data:  a\n\ndata:\n\n"], &[" a", ""], false);
    }

    #[test]
    fn a_stream_cut_off_inside_an_event_says_nothing_of_it() {
        check(&[b"data: a\n\ndata: {\"cho"], &["a"], true);
        check(&[b"data: a\n\ndata: b\n"], &["a"], true);
    }

    #[test]
    fn garbage_is_no_event() {
        check(&[b"\xff\xfe\0\x01 <html>\n\n{\"data\": 1}\n\n"], &[], false);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        check(&[b"data: \xff!\n\n"], &["\u{fffd}!"], false);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        let result = (0..=EVENT_BYTES_MAX / 1024).try_for_each(|_| parser.push(&[b'x'; 1024]).map(|_| ()));
        assert_eq!(result, Err(TooLong));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &[b'x'; 1024], b"\n"].concat();
        let result = (0..=EVENT_BYTES_MAX / 1024).try_for_each(|_| parser.push(&line).map(|_| ()));
        assert_eq!(result, Err(TooLong));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_network_cuts(
            payloads in proptest::collection::vec("[a-z{}:\" ]{1,20}", 0..8),
            line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            piece in 1_usize..7,
        ) {
            let text: String = payloads.iter().map(|payload| format!("data: {payload}{line_end}{line_end}")).collect();
            let mut parser = Parser::default();
            let events: Vec<String> =
                text.as_bytes().chunks(piece).flat_map(|piece| parser.push(piece).unwrap()).collect();
            prop_assert_eq!(events, payloads);
            prop_assert!(!parser.is_inside_event());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Parser::default().push(&bytes);
        }
    }
}
