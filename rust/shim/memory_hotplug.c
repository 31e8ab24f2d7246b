// SPDX-License-Identifier: GPL-2.0

/* <linux/memory_hotplug.h>, <linux/memremap.h> */
#include <linux/memremap.h>
#include "shim.h"

struct page *ksm_v_pfn_to_online_page(unsigned long pfn)
{
	return pfn_to_online_page(pfn);
}

bool ksm_v_pfn_is_device(unsigned long pfn)
{
	struct dev_pagemap *pagemap = get_dev_pagemap(pfn);

	if (!pagemap)
		return false;
	put_dev_pagemap(pagemap);
	return true;
}
