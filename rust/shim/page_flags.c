// SPDX-License-Identifier: GPL-2.0

/* <linux/page-flags.h>, <linux/pagemap.h>, <asm/mte.h> */
#include <linux/memory_hotplug.h>
#include "shim.h"
#ifdef CONFIG_ARM64_MTE
#include <asm/mte.h>
#endif

bool ksm_v_folio_test_large(const struct folio *folio)
{
	return folio_test_large(folio);
}

unsigned int ksm_v_folio_nr_pages(const struct folio *folio)
{
	return folio_nr_pages(folio);
}

bool ksm_v_folio_test_partially_mapped(const struct folio *folio)
{
	return folio_test_partially_mapped(folio);
}

bool ksm_v_folio_test_swapcache(const struct folio *folio)
{
	return folio_test_swapcache(folio);
}

bool ksm_v_folio_test_hugetlb(const struct folio *folio)
{
	return folio_test_hugetlb(folio);
}

const void *ksm_v_page_address(const struct page *page)
{
	return page_address(page);
}

bool ksm_v_page_anon_exclusive(const struct page *page)
{
	return PageAnonExclusive(page);
}

bool ksm_v_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}

pgoff_t ksm_v_folio_index(const struct folio *folio)
{
	return READ_ONCE(folio->index);
}

void ksm_v_folio_set_index(struct folio *folio, pgoff_t index)
{
	WRITE_ONCE(folio->index, index);
}

/*
 * The number of entries that map the merged page with this index on @pfn; -1 if there is no such page. Takes no
 * reference, so the page may be gone when this returns.
 */
int ksm_v_merged_mapcount(unsigned long pfn, pgoff_t index)
{
	const struct page *page = pfn_to_online_page(pfn);
	const struct folio *folio = (const struct folio *)page;

	/* Not page_folio(): a merged page is a folio of its own, and any other folio gets -1. */
	if (!page || (unsigned long)READ_ONCE(folio->mapping) != FOLIO_MAPPING_KSM ||
	    READ_ONCE(folio->index) != index)
		return -1;
	return atomic_read(&folio->_mapcount) + 1;
}

void ksm_v_folio_set_active(struct folio *folio)
{
	folio_set_active(folio);
}

unsigned long ksm_v_folio_raw_mapping(const struct folio *folio)
{
	return (unsigned long)READ_ONCE(folio->mapping);
}

void ksm_v_folio_set_raw_mapping(struct folio *folio, unsigned long mapping)
{
	WRITE_ONCE(folio->mapping, (struct address_space *)mapping);
}

void ksm_v_folio_mark_uptodate(struct folio *folio)
{
	__folio_mark_uptodate(folio);
}

void ksm_v_folio_set_swapbacked(struct folio *folio)
{
	__folio_set_swapbacked(folio);
}

bool ksm_v_pfn_hwpoison(unsigned long pfn)
{
	const struct page *page = pfn_to_online_page(pfn);

	return page && PageHWPoison(page);
}

bool ksm_v_pfn_is_large(unsigned long pfn)
{
	const struct page *page = pfn_to_online_page(pfn);

	return page && PageCompound(page);
}

bool ksm_v_page_hwpoison(const struct page *page)
{
	return PageHWPoison(page);
}

/* Whether the page may have memory tags. True for each page that a process has mapped with tags. */
bool ksm_v_page_mte_tagged(const struct page *page)
{
#ifdef CONFIG_ARM64_MTE
	return system_supports_mte() && page_mte_tagged((struct page *)page);
#else
	return false;
#endif
}
