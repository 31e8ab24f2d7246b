// SPDX-License-Identifier: GPL-2.0

/* <linux/ksm.h>, <linux/mm.h> */
#include "shim.h"

bool ksm_v_is_ksm_zero_pte(pte_t pte)
{
	return is_ksm_zero_pte(pte);
}

void ksm_v_ksm_map_zero_page(struct mm_struct *mm)
{
	/* The body of ksm_map_zero_page(), whose counter is not exported. */
	atomic_long_inc(ksm_v_ksm_zero_pages());
	atomic_long_inc(&mm->ksm_zero_pages);
}

long ksm_v_zero_pages(void)
{
	return atomic_long_read(ksm_v_ksm_zero_pages());
}
