// SPDX-License-Identifier: GPL-2.0

//! How contents get their keys.
//!
//! [`Keys`] never changes after a scanner was made, so a copy can be used without access to the
//! scanner.

use crate::content::Content;
use crate::hash::mix;
use crate::hash::HashKind;
use crate::hash::PageHash;
use crate::ids::Domain;
use crate::ids::Key;
use crate::sample::Sample;
use crate::sample::Sampler;
use crate::sample::LINES;

/// Gives keys to contents. The keys can't be predicted without the seed.
///
/// # Examples
///
/// ```
/// use engine::{Domain, HashKind, KsmScanner, PAGE_SIZE};
/// # use engine::Storage;
/// # struct Heap;
/// # impl<T: Clone + Default> Storage<T> for Heap {
/// #     type Block = Vec<T>;
/// #     fn allocate(&self, len: usize) -> Option<Vec<T>> {
/// #         Some(vec![T::default(); len])
/// #     }
/// #     fn can_truncate(&self, _block: &Vec<T>) -> bool {
/// #         false
/// #     }
/// #     fn truncate(&self, _block: &mut Vec<T>, _len: usize) {}
/// # }
///
/// // A scanner has keys; copy them to use them without the scanner's lock.
/// let keys = *KsmScanner::with(Heap, HashKind::Wide, 0x1234).keys();
///
/// // Equal contents have equal keys within a domain, and other keys in another domain.
/// let (user, other_user) = (Domain(1000), Domain(1001));
/// let mut content = [7; PAGE_SIZE];
/// let key = keys.inspect_any(user, &content).whole;
/// assert!(keys.is_of(key, user, &content));
/// assert!(!keys.is_of(key, other_user, &content));
///
/// // One changed byte changes the key of the whole content.
/// content[100] += 1;
/// assert!(!keys.is_of(key, user, &content));
///
/// // Zero-filled pages have no keys here: they are merged with the zero page.
/// assert!(keys.inspect(user, &[0; PAGE_SIZE]).is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    hash: PageHash,
    sampler: Sampler,
    seed: u64,
}

/// A number that is mixed into the keys of a domain. No two domains have the same.
#[derive(Clone, Copy, Debug)]
pub struct Salt(u64);

/// A sample of a page in a domain, in the form that the index stores: the argument of
/// [`crate::KsmScanner::glance`].
///
/// The high bits hold the key; the lowest bit is set if all words of the sample are zero.
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

/// The two keys of a content: the argument of [`crate::KsmScanner::settle`].
#[derive(Clone, Copy, Debug)]
pub struct Inspected {
    /// The key of its sample.
    pub sample: Key,
    /// The key of the whole content.
    pub whole: Key,
}

impl Keys {
    /// Makes keys that hash whole contents with `hash`, and derive their secrets from `seed`.
    pub(crate) fn new(hash: HashKind, seed: u64) -> Self {
        Keys {
            hash: PageHash::new(hash, mix(seed ^ 1)),
            sampler: Sampler::new(mix(seed ^ 2)),
            seed: mix(seed),
        }
    }

    /// The salt of a domain. Compute it once for many pages.
    pub fn salt(&self, domain: Domain) -> Salt {
        Salt(mix(domain.0 ^ self.seed))
    }

    /// The places of the page that [`Self::glimpse`] reads, in the order in which it reads them: offsets in
    /// bytes.
    pub fn sampled_offsets(&self) -> [u16; LINES] {
        self.sampler.offsets()
    }

    /// Samples a page in the domain of this salt.
    #[inline]
    pub fn glimpse<C: Content + ?Sized>(&self, salt: Salt, content: &C) -> Glimpse {
        let sample = self.sampler.of(content);
        let hash = sample.hash ^ salt.0;
        Glimpse((hash & !Glimpse::BLANK) | u64::from(sample.is_blank))
    }

    /// Samples a page only as far as it takes to tell that it is not zero-filled, mostly one cache line: the
    /// argument of [`crate::KsmScanner::glance_zero`].
    #[inline]
    pub fn glimpse_zero<C: Content + ?Sized>(&self, content: &C) -> Glimpse {
        Glimpse(u64::from(self.sampler.is_blank(content)))
    }

    /// Reads a whole content in `domain`; `None` if it is zero-filled.
    pub fn inspect<C: Content + ?Sized>(&self, domain: Domain, content: &C) -> Option<Inspected> {
        let sample = self.sampler.of(content);
        let is_zero = sample.is_blank && content.is_zero();
        (!is_zero).then(|| self.inspected(domain, sample, content))
    }

    /// Like [`Self::inspect`], but treats zeroes like any other content.
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

    /// Whether this content in `domain` has `key`. A page may have changed since its key was computed.
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

    /// The key of a whole content in a domain; `sample` is the key of its sample.
    pub(crate) fn of_whole<C: Content + ?Sized>(
        &self,
        domain: Domain,
        sample: Key,
        content: &C,
    ) -> Key {
        let hash = self.hash.of(content) ^ self.salt(domain).0;
        // Mixed, since the upper half of the documented hash is zero.
        Key::of_whole(mix(hash), sample)
    }
}
