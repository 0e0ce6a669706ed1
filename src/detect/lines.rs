//! Lines of bounded length, whatever is read.

use std::io::{self, BufRead};

/// Reads the next line into `line`, without its end; returns whether all of it fits into `most` bytes, `None` at the end of
/// the input. What does not fit is thrown away.
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<Option<bool>> {
    line.clear();
    let (mut is_whole, mut is_begun) = (true, false);
    loop {
        let held = match input.fill_buf() {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if held.is_empty() {
            return Ok(is_begun.then_some(is_whole));
        }
        is_begun = true;
        let end = held.iter().position(|each| *each == b'\n');
        let part = &held[..end.unwrap_or(held.len())];
        let room = most.saturating_sub(line.len());
        is_whole &= part.len() <= room;
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(held.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(Some(is_whole));
        }
    }
}
