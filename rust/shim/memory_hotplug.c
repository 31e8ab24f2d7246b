// SPDX-License-Identifier: GPL-2.0

/* <linux/memory_hotplug.h>, <linux/memremap.h> */
#include <linux/memremap.h>
#include "shim.h"

struct page *ksm_v_pfn_to_online_page(unsigned long pfn)
{
	return pfn_to_online_page(pfn);
}

bool ksm_v_is_merged_on_device(unsigned long pfn, pgoff_t index)
{
	/* Keeps the memory plugged in, and with it the folio's structure. */
	struct dev_pagemap *pagemap = get_dev_pagemap(pfn);
	const struct folio *folio;
	bool is_merged;

	if (!pagemap)
		return false;
	folio = (const struct folio *)pfn_to_page(pfn);
	is_merged = (unsigned long)READ_ONCE(folio->mapping) == FOLIO_MAPPING_KSM &&
		READ_ONCE(folio->index) == index;
	put_dev_pagemap(pagemap);
	return is_merged;
}
