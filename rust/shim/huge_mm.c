// SPDX-License-Identifier: GPL-2.0

/* <linux/huge_mm.h> */
#include "shim.h"

spinlock_t *ksm_v_pmd_trans_huge_lock(pmd_t *pmd, struct vm_area_struct *vma)
{
	return pmd_trans_huge_lock(pmd, vma);
}

int ksm_v_split_huge_page(struct page *page)
{
	return split_huge_page(page);
}
