// SPDX-License-Identifier: GPL-2.0

/* <linux/memory_hotplug.h> */
#include "shim.h"

struct page *ksm_v_pfn_to_online_page(unsigned long pfn)
{
	return pfn_to_online_page(pfn);
}
