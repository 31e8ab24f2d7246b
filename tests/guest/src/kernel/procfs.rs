// SPDX-License-Identifier: GPL-2.0

//! Files in `/proc` and `/sys` that contain named numbers.

use std::fs;
use std::ops::Range;

use crate::Context;
use crate::Result;
use crate::Span;

/// Reads a text file.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).context(|| format!("reading {path}"))
}

/// Writes to an existing text file.
pub fn write(path: &str, text: &str) -> Result {
    fs::write(path, text).context(|| format!("writing {text:?} to {path}"))
}

/// Reads a file that holds one number.
pub fn number(path: &str) -> Result<u64> {
    let text = read(path)?;
    text.trim()
        .parse()
        .context(|| format!("{path} should hold a number, but holds {text:?}"))
}

/// The number after `name` in lines like `name: 12 kB` or `name 12`.
pub fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix(':').or_else(|| rest.strip_prefix(' '))?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

/// Reads a file of lines like `name: 12 kB` and returns the number after `name`.
pub fn number_in(path: &str, name: &str) -> Result<u64> {
    field(&read(path)?, name).ok_or_else(|| format!("{path} has no number named {name}").into())
}

/// The value in kB of a field of `/proc/PID/smaps_rollup`, the sum over all mappings of a process.
pub fn rollup(pid: i32, name: &str) -> Result<u64> {
    number_in(&format!("/proc/{pid}/smaps_rollup"), name)
}

/// The sum, in kB, of a field of `/proc/PID/smaps` over the mappings within a span.
pub fn smaps(pid: i32, span: Span, name: &str) -> Result<u64> {
    let text = read(&format!("/proc/{pid}/smaps"))?;
    Ok(sum_of_smaps(&text, span.range(), name))
}

/// The two-letter flags (`VmFlags`) of the mapping at `addr`.
pub fn vma_flags(pid: i32, addr: u64) -> Result<Vec<String>> {
    let text = read(&format!("/proc/{pid}/smaps"))?;
    let mut inside = false;
    for line in text.lines() {
        match mapping(line) {
            Some(range) => inside = range.contains(&addr),
            None if inside && line.starts_with("VmFlags:") => {
                return Ok(line.split_whitespace().skip(1).map(str::to_owned).collect());
            }
            None => {}
        }
    }
    Err(format!("process {pid} has no mapping at {addr:#x}").into())
}

/// The address range at the start of a line of `/proc/PID/maps` or of an entry of `smaps`.
pub fn mapping(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(hex(start)?..hex(end)?)
}

fn sum_of_smaps(text: &str, span: Range<u64>, name: &str) -> u64 {
    let (mut sum, mut inside) = (0, false);
    for line in text.lines() {
        if let Some(range) = mapping(line) {
            inside = span.start <= range.start && range.end <= span.end;
        } else if inside {
            sum += field(line, name).unwrap_or(0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 \nPss:   8 kB\nKSM:   4 kB\nVmFlags: rd wr
3000-4000 rw-p 00000000 00:00 0 \nPss:   4 kB\nKSM:   4 kB\nVmFlags: rd wr
9000-a000 rw-p 00000000 00:00 0 \nPss:   4 kB\nKSM:   2 kB\nVmFlags: rd wr\n";

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("Pss_Dirty: 3 kB\nPss: 4 kB", "Pss"), Some(4));
        assert_eq!(field("ksm_zero_pages 7", "ksm_zero_pages"), Some(7));
        assert_eq!(field("Pss: 4 kB", "KSM"), None);
    }

    #[test]
    fn smaps_are_summed_within_a_span() {
        assert_eq!(sum_of_smaps(SMAPS, 0x1000..0x4000, "KSM"), 8);
        assert_eq!(sum_of_smaps(SMAPS, 0x9000..0xa000, "KSM"), 2);
        assert_eq!(sum_of_smaps(SMAPS, 0x4000..0x5000, "KSM"), 0);
    }

    #[test]
    fn mappings_are_told_from_fields() {
        assert_eq!(mapping("1000-3000 rw-p 0 0"), Some(0x1000..0x3000));
        assert_eq!(mapping("VmFlags: rd wr"), None);
    }
}
