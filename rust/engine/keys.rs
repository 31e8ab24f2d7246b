// SPDX-License-Identifier: GPL-2.0

//! How contents get their keys.
//!
//! Fixed when a scanner is made: whoever has a copy needs no access to the scanner for it.

use crate::content::Content;
use crate::hash::mix;
use crate::hash::HashKind;
use crate::hash::PageHash;
use crate::ids::Domain;
use crate::ids::Key;
use crate::sample::Sample;
use crate::sample::Sampler;

/// Gives keys to contents. Whoever does not know the seed can't tell what they are.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    hash: PageHash,
    sampler: Sampler,
    seed: u64,
}

/// What tells the keys of a domain from those of others: no other domain has the same.
#[derive(Clone, Copy, Debug)]
pub struct Salt(u64);

/// A sample of a page in a domain, as the index knows it: what [`crate::KsmScanner::glance`] wants.
///
/// The bits of its key from the highest on; the lowest says whether all words of the sample are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Glimpse(u64);

const _: () = assert!(Key::BITS < u64::BITS);

impl Glimpse {
    const BLANK: u64 = 1;

    #[inline]
    pub(crate) fn is_blank(self) -> bool {
        self.0 & Self::BLANK != 0
    }

    #[inline]
    pub(crate) fn key(self) -> Key {
        Key::of_sample(self.0)
    }
}

/// The keys of a content: what [`crate::KsmScanner::settle`] wants.
#[derive(Clone, Copy, Debug)]
pub struct Inspected {
    /// That of a sample.
    pub sample: Key,
    /// That of the whole content.
    pub whole: Key,
}

impl Keys {
    /// Hashes whole contents with `hash`, and draws the rest from `seed`.
    pub(crate) fn new(hash: HashKind, seed: u64) -> Self {
        Keys {
            hash: PageHash::new(hash, mix(seed ^ 1)),
            sampler: Sampler::new(mix(seed ^ 2)),
            seed: mix(seed),
        }
    }

    /// The salt of a domain: to be asked once for many pages.
    pub fn salt(&self, domain: Domain) -> Salt {
        Salt(mix(domain.0 ^ self.seed))
    }

    /// Takes a sample of a page in the domain of this salt.
    #[inline]
    pub fn glimpse<C: Content + ?Sized>(&self, salt: Salt, content: &C) -> Glimpse {
        let sample = self.sampler.of(content);
        let hash = sample.hash ^ salt.0;
        Glimpse((hash & !Glimpse::BLANK) | u64::from(sample.is_blank))
    }

    /// Looks at a whole content in `domain`; `None`: it is all zeroes.
    pub fn inspect<C: Content + ?Sized>(&self, domain: Domain, content: &C) -> Option<Inspected> {
        let sample = self.sampler.of(content);
        let is_zero = sample.is_blank && content.is_zero();
        (!is_zero).then(|| self.inspected(domain, sample, content))
    }

    /// As [`Self::inspect`], of any content: zeroes are one like others.
    pub fn inspect_any<C: Content + ?Sized>(&self, domain: Domain, content: &C) -> Inspected {
        self.inspected(domain, self.sampler.of(content), content)
    }

    fn inspected<C: Content + ?Sized>(
        &self,
        domain: Domain,
        sample: Sample,
        content: &C,
    ) -> Inspected {
        let sample = self.of_sample(domain, sample);
        let whole = self.of_whole(domain, sample, content);
        Inspected { sample, whole }
    }

    /// Whether a page of this content in `domain` has `key`: it may have changed since it was
    /// looked at.
    pub fn is_of<C: Content + ?Sized>(&self, key: Key, domain: Domain, content: &C) -> bool {
        let sample = self.of_content_sample(domain, content);
        if key.is_whole() {
            key == self.of_whole(domain, sample, content)
        } else {
            key == sample
        }
    }

    /// The key of a sample in a domain.
    fn of_sample(&self, domain: Domain, sample: Sample) -> Key {
        Key::of_sample(sample.hash ^ self.salt(domain).0)
    }

    /// The key of the sample of a content in a domain.
    pub(crate) fn of_content_sample<C: Content + ?Sized>(
        &self,
        domain: Domain,
        content: &C,
    ) -> Key {
        self.of_sample(domain, self.sampler.of(content))
    }

    /// The key of whole contents in a domain, with a sample of this key.
    pub(crate) fn of_whole<C: Content + ?Sized>(
        &self,
        domain: Domain,
        sample: Key,
        content: &C,
    ) -> Key {
        let hash = self.hash.of(content) ^ self.salt(domain).0;
        // Of the documented hash the upper half is zero.
        Key::of_whole(mix(hash), sample)
    }
}
