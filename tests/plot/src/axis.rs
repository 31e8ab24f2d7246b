// SPDX-License-Identifier: GPL-2.0

//! Axes: which values have a mark, and where each value is.

use plotters::coord::ranged1d::DefaultFormatting;
use plotters::coord::ranged1d::KeyPointHint;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use std::ops::Range;

/// An axis.
pub struct Axis {
    /// What it shows.
    pub title: &'static str,
    /// Where its values are.
    pub scale: Scale,
}

/// Where the values of an axis are.
#[derive(Clone, Copy)]
pub enum Scale {
    /// Even values have even distances, from 0 on.
    Linear,
    /// Powers of the base have even distances, and a mark each.
    Logarithmic(f64),
}

/// An axis as plotters draws it: even, from one place to another. [`Axis::place`] bends.
pub struct Drawn {
    even: RangedCoordf64,
    marks: Vec<f64>,
}

impl Ranged for Drawn {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        self.even.map(place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.even.range()
    }
}

impl Axis {
    /// Where a value is.
    pub fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic(base) => value.log(base),
        }
    }

    /// The value that is at a place.
    pub fn value(&self, place: f64) -> f64 {
        match self.scale {
            Scale::Linear => place,
            Scale::Logarithmic(base) => base.powf(place),
        }
    }

    /// The axis for these values, with room at the ends.
    pub fn drawn(&self, values: impl Iterator<Item = f64> + Clone) -> Drawn {
        const MARKS: usize = 8;
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(0.0, f64::max);
        match self.scale {
            Scale::Linear => {
                let even = RangedCoordf64::from(0.0..most * 1.1);
                let marks = even.key_points(MARKS);
                Drawn { even, marks }
            }
            Scale::Logarithmic(_) => {
                let (first, last) = (self.place(least).floor(), self.place(most).ceil());
                let marks = first as i32..=last as i32;
                Drawn {
                    even: (first - 0.5..last + 0.5).into(),
                    marks: marks.map(f64::from).collect(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_has_a_mark_at_each_power() {
        let axis = Axis {
            title: "",
            scale: Scale::Logarithmic(2.0),
        };
        let drawn = axis.drawn([64.0, 2048.0].into_iter());
        let marks = drawn.key_points(100);
        let values: Vec<f64> = marks.into_iter().map(|place| axis.value(place)).collect();
        assert_eq!(values, [64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0]);
    }

    #[test]
    fn a_linear_axis_begins_at_zero() {
        let axis = Axis {
            title: "",
            scale: Scale::Linear,
        };
        let range = axis.drawn([50.0, 100.0].into_iter()).range();
        assert_eq!(range.start, 0.0);
        assert!(range.end > 100.0);
    }
}
