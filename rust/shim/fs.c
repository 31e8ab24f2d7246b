// SPDX-License-Identifier: GPL-2.0

/* <linux/fs.h> */
#include "shim.h"

umode_t ksm_v_file_mode(const struct file *file)
{
	return file_inode(file)->i_mode;
}
