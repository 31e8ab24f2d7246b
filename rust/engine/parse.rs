// SPDX-License-Identifier: GPL-2.0

//! Parsers for the text written to the knobs.
//!
//! A knob accepts exactly the expected text, optionally followed by one newline; anything else is an
//! error. The files with mainline's names accept what mainline accepts: see [`kstrtoul`],
//! [`kstrtoint`], [`kstrtobool`] and [`streq_word`].
//!
//! # Examples
//!
//! ```
//! use engine::parse::{decimal, process_part, word, ProcessPart};
//!
//! // `scan_rate`
//! assert_eq!(decimal(b"100\n", u32::MAX.into()), Some(100));
//! assert_eq!(decimal(b"+100", u32::MAX.into()), None);
//!
//! // `scope`
//! assert_eq!(word(b"registered\n", &["all", "registered"]), Some(1));
//!
//! // `merge_now`
//! let range = 0x1000..0x3000;
//! assert_eq!(process_part(b"42 1000 0x3000"), Some(ProcessPart { pid: 42, range }));
//! assert_eq!(process_part(b"42 1000 1fff"), None, "not a multiple of the page size");
//! ```

use crate::content::PAGE_SIZE;
use core::ops::Range;

/// Parses a decimal number no larger than `max`.
///
/// Returns `None` for a number above `max` and for any other text: an empty string, a sign, a letter,
/// or characters around the digits, except for one newline at the end.
pub fn decimal(text: &[u8], max: u64) -> Option<u64> {
    number(without_newline(text), 10).filter(|&number| number <= max)
}

/// Parses a percentage: a decimal number no larger than 100, and a percent sign.
///
/// Returns `None` for any other text, as [`decimal`] does.
pub fn percent(text: &[u8]) -> Option<u8> {
    let digits = without_newline(text).strip_suffix(b"%")?;
    let percent = number(digits, 10).filter(|&percent| percent <= 100)?;
    u8::try_from(percent).ok()
}

/// A process, or a part of its address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPart {
    /// The process's id.
    pub pid: i32,
    /// A page-aligned range of addresses, or all addresses.
    pub range: Range<usize>,
}

/// Parses `PID`, or `PID START END` with addresses as in `/proc/PID/maps`: hexadecimal, with or without
/// a leading `0x`, and multiples of [`PAGE_SIZE`].
///
/// Returns `None` for anything else, including an empty range.
pub fn process_part(text: &[u8]) -> Option<ProcessPart> {
    let mut fields = without_newline(text).split(|&byte| byte == b' ');
    let pid = i32::try_from(number(fields.next()?, 10)?).ok()?;
    let range = match fields.next() {
        Some(start) => address(start)?..address(fields.next()?)?,
        None => 0..usize::MAX,
    };
    let is_sound = fields.next().is_none() && !range.is_empty();
    is_sound.then_some(ProcessPart { pid, range })
}

/// Parses the address of a page.
fn address(text: &[u8]) -> Option<usize> {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let address = usize::try_from(number(digits, 16)?).ok()?;
    (address % PAGE_SIZE == 0).then_some(address)
}

/// Parses a number that consists of digits only.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

/// Returns the position of the word `text` among `words`.
pub fn word(text: &[u8], words: &[&str]) -> Option<usize> {
    let text = without_newline(text);
    words.iter().position(|word| word.as_bytes() == text)
}

/// The reason why mainline rejects a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is no number.
    NoNumber,
    /// It is out of range.
    TooLarge,
}

/// Parses a number like the kernel's `kstrtoul()` with base 10 and its variants for smaller types:
/// digits, optionally after a plus sign, optionally followed by one newline. A NUL ends the text.
///
/// # Errors
///
/// [`Misfit::TooLarge`] for a number above `max`, [`Misfit::NoNumber`] for anything else.
pub fn kstrtoul(text: &[u8], max: u64) -> Result<u64, Misfit> {
    let text = c_text(text);
    unsigned(text.strip_prefix(b"+").unwrap_or(text), max)
}

/// Parses a number like the kernel's `kstrtoint()`: like [`kstrtoul`], but with a minus sign allowed in
/// place of the plus sign.
///
/// # Errors
///
/// [`Misfit::TooLarge`] for a number that is no `i32`, [`Misfit::NoNumber`] for anything else.
pub fn kstrtoint(text: &[u8]) -> Result<i32, Misfit> {
    let (number, is_negative) = match c_text(text).strip_prefix(b"-") {
        Some(digits) => (unsigned(digits, u32::MAX.into())?, true),
        None => (kstrtoul(text, u32::MAX.into())?, false),
    };
    let number = i64::try_from(number).map_err(|_| Misfit::TooLarge)?;
    let number = if is_negative { -number } else { number };
    i32::try_from(number).map_err(|_| Misfit::TooLarge)
}

fn unsigned(text: &[u8], max: u64) -> Result<u64, Misfit> {
    let digits = without_newline(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Misfit::NoNumber);
    }
    let number = number(digits, 10).ok_or(Misfit::TooLarge)?;
    if number > max {
        return Err(Misfit::TooLarge);
    }
    Ok(number)
}

/// Parses a boolean like the kernel's `kstrtobool()`, which looks at the first letter, or at two after
/// an `o`.
pub fn kstrtobool(text: &[u8]) -> Option<bool> {
    let mut letters = c_text(text).iter().map(u8::to_ascii_lowercase);
    match (letters.next()?, letters.next()) {
        (b'e' | b'y' | b't' | b'1', _) | (b'o', Some(b'n')) => Some(true),
        (b'd' | b'n' | b'f' | b'0', _) | (b'o', Some(b'f')) => Some(false),
        _ => None,
    }
}

/// Like [`word`], by the rules of the kernel's `sysfs_streq()`: a NUL ends the text.
pub fn streq_word(text: &[u8], words: &[&str]) -> Option<usize> {
    word(c_text(text), words)
}

/// The text up to the first NUL.
fn c_text(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or(text)
}

/// Strips the newline that `echo` adds.
fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}
