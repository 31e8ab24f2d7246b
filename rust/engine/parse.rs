// SPDX-License-Identifier: GPL-2.0

//! The text that is written to the knobs.
//!
//! As `kstrtoul()` with base 10 and mainline KSM's error rule: what is asked for, optionally
//! followed by one newline; anything else is refused as a whole.

use crate::content::PAGE_SIZE;
use core::ops::Range;

/// Parses a decimal number no larger than `max`.
///
/// Returns `None` for an empty string, a sign, a letter, anything before or after the digits but
/// one newline, and for a number above `max`.
pub fn decimal(text: &[u8], max: u64) -> Option<u64> {
    number(without_newline(text), 10).filter(|&number| number <= max)
}

/// A process, or a part of its address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The process's id.
    pub pid: i32,
    /// The addresses: a part that begins and ends with a page, or all of them.
    pub range: Range<usize>,
}

/// Parses `PID`, or `PID START END` with addresses as in `/proc/PID/maps`: hexadecimal, with or
/// without `0x` before them, and multiples of [`PAGE_SIZE`].
///
/// Returns `None` for anything else, and where the range is empty.
pub fn region(text: &[u8]) -> Option<Region> {
    let mut fields = without_newline(text).split(|&byte| byte == b' ');
    let pid = i32::try_from(number(fields.next()?, 10)?).ok()?;
    let range = match fields.next() {
        Some(start) => address(start)?..address(fields.next()?)?,
        None => 0..usize::MAX,
    };
    let is_sound = fields.next().is_none() && !range.is_empty();
    is_sound.then_some(Region { pid, range })
}

/// The address of a page.
fn address(text: &[u8]) -> Option<usize> {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let address = usize::try_from(number(digits, 16)?).ok()?;
    (address % PAGE_SIZE == 0).then_some(address)
}

/// The number that these digits are.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

/// Finds the word that `text` is among `words` and returns its position.
pub fn word(text: &[u8], words: &[&str]) -> Option<usize> {
    let text = without_newline(text);
    words.iter().position(|word| word.as_bytes() == text)
}

/// Strips the newline that `echo` adds.
fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}
