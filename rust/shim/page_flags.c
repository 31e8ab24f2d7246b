// SPDX-License-Identifier: GPL-2.0

/* <linux/page-flags.h>, <linux/pagemap.h> */
#include "shim.h"

bool ksm_v_folio_test_large(const struct folio *folio)
{
	return folio_test_large(folio);
}

bool ksm_v_folio_test_swapcache(const struct folio *folio)
{
	return folio_test_swapcache(folio);
}

bool ksm_v_folio_test_hugetlb(const struct folio *folio)
{
	return folio_test_hugetlb(folio);
}

bool ksm_v_page_anon_exclusive(const struct page *page)
{
	return PageAnonExclusive(page);
}

bool ksm_v_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
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

bool ksm_v_page_hwpoison(const struct page *page)
{
	return PageHWPoison(page);
}
