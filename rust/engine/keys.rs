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

/// Odd, and no bit pattern of note: the golden ratio.
const DOMAIN_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Gives keys to contents. Whoever does not know the seed can't tell what they are.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    hash: PageHash,
    sampler: Sampler,
    seed: u64,
}

/// The keys of a content: what [`crate::KsmScanner::settle`] wants.
#[derive(Clone, Copy, Debug)]
pub struct Inspected {
    pub(crate) sample: Key,
    pub(crate) whole: Key,
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

    /// Takes the samples that [`crate::KsmScanner::glance`] wants.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
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
    #[inline]
    pub(crate) fn of_sample(&self, domain: Domain, sample: Sample) -> Key {
        Key::of_sample(self.hash_in(domain, sample.hash))
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
        Key::of_whole(self.hash_in(domain, self.hash.of(content)), sample)
    }

    #[inline]
    fn hash_in(&self, domain: Domain, hash: u64) -> u64 {
        // Domains are told apart by a product with an odd number: none has another's.
        mix(hash ^ domain.0.wrapping_mul(DOMAIN_FACTOR) ^ self.seed)
    }
}
