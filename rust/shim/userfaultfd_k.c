// SPDX-License-Identifier: GPL-2.0

/* <linux/userfaultfd_k.h> */
#include "shim.h"

bool ksm_v_userfaultfd_armed(struct vm_area_struct *vma)
{
	return userfaultfd_armed(vma);
}
