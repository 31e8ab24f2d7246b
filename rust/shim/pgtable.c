// SPDX-License-Identifier: GPL-2.0

/* <linux/mm.h>, <linux/pgtable.h> */
#include "shim.h"
#include <linux/prefetch.h>

/* A hash of the pages that a row of entries maps. It does not depend on their order. */
u32 ksm_v_ptes_digest(pte_t *first, unsigned long entries, u32 *pages)
{
	u64 sum = 0;

	*pages = 0;
	for (pte_t *ptep = first; ptep < first + entries; ptep++) {
		pte_t pte = ptep_get(ptep);
		u64 hash = pte_pfn(pte) * GOLDEN_RATIO_64;

		if (!pte_present(pte))
			continue;
		sum += hash ^ (hash >> 32);
		(*pages)++;
	}
	return sum ^ (sum >> 32);
}

pte_t ksm_v_ptep_get(pte_t *ptep)
{
	return ptep_get(ptep);
}

pte_t ksm_v_ptep_get_and_clear(struct mm_struct *mm, unsigned long addr, pte_t *ptep)
{
	return ptep_get_and_clear(mm, addr, ptep);
}

unsigned long ksm_v_pte_pfn(pte_t pte)
{
	return pte_pfn(pte);
}

void ksm_v_pte_unmap_unlock(pte_t *ptep, spinlock_t *ptl)
{
	pte_unmap_unlock(ptep, ptl);
}

static void describe(struct page *page, struct ksm_v_mapped *mapped)
{
	mapped->page = page;
	mapped->pfn = page_to_pfn(page);
	mapped->mapping = (unsigned long)READ_ONCE(page_folio(page)->mapping);
	mapped->words = page_address(page);
	mapped->poisoned = PageHWPoison(page);
	mapped->present = true;
}

/* Field by field: the compiler would clear a structure by "rep stos", which is slow. */
static void describe_none(bool present, struct ksm_v_mapped *mapped)
{
	mapped->page = NULL;
	mapped->pfn = 0;
	mapped->mapping = 0;
	mapped->words = NULL;
	mapped->poisoned = false;
	mapped->present = present;
}

/* Fetches the places of an anonymous page that is not merged into the caches. */
static void fetch(const struct ksm_v_mapped *mapped, const struct ksm_v_places *places)
{
	if ((mapped->mapping & FOLIO_MAPPING_FLAGS) != FOLIO_MAPPING_ANON || mapped->poisoned)
		return;
	if (!places->count)
		return;
	prefetch(mapped->words + places->offsets[0]);
	if (places->count == 1)
		return;
	prefetch(mapped->words + places->offsets[1]);
	prefetch(mapped->words + places->offsets[2]);
	prefetch(mapped->words + places->offsets[3]);
}

/* The page that an entry maps, or NULL. */
static struct page *page_of(pte_t pte, struct vm_area_struct *vma, unsigned long addr)
{
	/* The fast path of vm_normal_page(), which is not inline. */
	if (IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL) && likely(!pte_special(pte)))
		return pte_page(pte);
	return vm_normal_page(vma, addr, pte);
}

/*
 * Describes what @count entries map, from the one at @addr on.
 *
 * All of them are described before the first page is read, so that the processor
 * waits for the memory of several pages at once.
 */
void ksm_v_ptes_mapped(pte_t *first, struct vm_area_struct *vma, unsigned long addr,
		       const struct ksm_v_places *places, struct ksm_v_mapped *mapped,
		       unsigned int count)
{
	for (pte_t *ptep = first; ptep < first + count; ptep++, mapped++, addr += PAGE_SIZE) {
		pte_t pte = ptep_get(ptep);
		bool present = pte_present(pte);
		struct page *page = present ? page_of(pte, vma, addr) : NULL;

		if (page) {
			describe(page, mapped);
			fetch(mapped, places);
		} else {
			describe_none(present, mapped);
		}
	}
}

/* Like ksm_v_ptes_mapped(), for pages of a mapped huge page. */
void ksm_v_pages_mapped(struct page *first, const struct ksm_v_places *places,
			struct ksm_v_mapped *mapped, unsigned int count)
{
	for (struct page *page = first; page < first + count; page++, mapped++) {
		describe(page, mapped);
		fetch(mapped, places);
	}
}

bool ksm_v_pte_present(pte_t pte)
{
	return pte_present(pte);
}

bool ksm_v_pte_dirty(pte_t pte)
{
	return pte_dirty(pte);
}

bool ksm_v_pte_soft_dirty(pte_t pte)
{
	return pte_soft_dirty(pte);
}

bool ksm_v_pte_uffd(pte_t pte)
{
#ifdef KSM_V_HAVE_PTE_UFFD
	return pte_uffd(pte);
#else
	return pte_uffd_wp(pte);
#endif
}

pte_t ksm_v_pte_mksoft_dirty(pte_t pte)
{
	return pte_mksoft_dirty(pte);
}

pte_t ksm_v_pte_mkclean(pte_t pte)
{
	return pte_mkclean(pte);
}

pte_t ksm_v_mk_pte(const struct page *page, pgprot_t prot)
{
	return mk_pte(page, prot);
}

pte_t ksm_v_mk_ksm_zero_pte(unsigned long addr, pgprot_t prot)
{
	/*
	 * As replace_page() in mm/ksm.c: is_ksm_zero_pte() recognises the entry by its dirty bit.
	 * pte_mkdirty() also sets the soft-dirty bit, which is cleared here, because nobody has written.
	 */
	pte_t pte = pte_mkspecial(pfn_pte(page_to_pfn(ZERO_PAGE(addr)), prot));

	return pte_clear_soft_dirty(pte_mkdirty(pte));
}

/*
 * As wp_page_copy() for an unsharing fault: the new entry is read-only, and keeps the marks of the old one:
 * soft-dirty, the mark of userfaultfd, and that the next access faults (NUMA hint, or userfaultfd).
 */
pte_t ksm_v_mk_copied_pte(pte_t old, const struct page *copy, pgprot_t prot)
{
	/* Not pte_modify(), which needs cc_mask on x86, which is not exported. */
	pgprot_t now = pte_protnone(old) ? vm_get_page_prot(VM_NONE) : prot;
	pte_t pte = pte_sw_mkyoung(mk_pte(copy, now));

	if (pte_soft_dirty(old))
		pte = pte_mksoft_dirty(pte);
	if (ksm_v_pte_uffd(old))
#ifdef KSM_V_HAVE_PTE_UFFD
		pte = pte_mkuffd(pte);
#else
		pte = pte_mkuffd_wp(pte);
#endif
	return pte;
}

void ksm_v_set_pte_at(struct mm_struct *mm, unsigned long addr, pte_t *ptep, pte_t pte)
{
	set_pte_at(mm, addr, ptep, pte);
}

bool ksm_v_pmd_trans_huge(pmd_t *pmd)
{
	pmd_t value = pmdp_get(pmd);

	return pmd_present(value) && pmd_trans_huge(value);
}

struct page *ksm_v_pmd_page(pmd_t *pmd)
{
	return pmd_page(pmdp_get(pmd));
}
