// SPDX-License-Identifier: GPL-2.0

//! The values that knobs read from a text, computed with the standard library.

use std::ops::Range;

/// The words of the knob `domain`.
pub const WORDS: [&str; 4] = ["user", "process", "cgroup", "global"];

/// The expected result of [`engine::parse::decimal`]. The standard library's parser differs only in
/// accepting a plus sign.
pub fn decimal(text: &[u8], max: u64) -> Option<u64> {
    let digits = bare(text)?;
    let number: u64 = digits.parse().ok().filter(|_| !digits.starts_with('+'))?;
    (number <= max).then_some(number)
}

/// The expected result of [`engine::parse::word`] for [`WORDS`].
pub fn word(text: &[u8]) -> Option<usize> {
    let text = bare(text)?;
    WORDS.iter().position(|&word| word == text)
}

/// The expected result of [`engine::parse::process_part`]: the process ID and the addresses.
pub fn process_part(text: &[u8]) -> Option<(i32, Range<usize>)> {
    let fields: Vec<&str> = bare(text)?.split(' ').collect();
    let address = |text: &&str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let address = usize::from_str_radix(digits, 16).ok()?;
        (address % 4096 == 0 && !digits.starts_with('+')).then_some(address)
    };
    let range = match fields[..] {
        [_] => 0..usize::MAX,
        [_, start, end] => address(&start)?..address(&end)?,
        _ => return None,
    };
    let pid = fields
        .first()
        .filter(|field| !field.starts_with(['+', '-']));
    let pid = pid.and_then(|field| field.parse().ok())?;
    (!range.is_empty()).then_some((pid, range))
}

/// The text without a newline at its end.
fn bare(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(text))
}
