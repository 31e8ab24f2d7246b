// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the kernel's loads from some frames fail, like memory with uncorrectable errors: removes the
 * frames whose numbers were last written to the debugfs file ksm_v_fail_frame from the kernel's linear
 * mapping. A load that the kernel cannot recover from ends in an oops. Processes that map the frames
 * can still read them. Writing nothing restores all.
 */

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/set_memory.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#define MOST 8

/* Not exported; called through a static call, because the processor may forbid indirect calls. */
DEFINE_STATIC_CALL_NULL(np, set_memory_np);
DEFINE_STATIC_CALL_NULL(p, set_memory_p);

static unsigned long frames[MOST];

static unsigned long page_address_of(unsigned long frame)
{
	return (unsigned long)__va(PFN_PHYS(frame));
}

static void mend_all(void)
{
	for (int i = 0; i < MOST; i++) {
		if (frames[i])
			static_call(p)(page_address_of(frames[i]), 1);
		frames[i] = 0;
	}
}

static ssize_t frame_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	char buffer[256], *rest = buffer, *word;
	int err = 0;

	if (len >= sizeof(buffer))
		return -EINVAL;
	if (copy_from_user(buffer, text, len))
		return -EFAULT;
	buffer[len] = '\0';
	mend_all();
	for (int i = 0; i < MOST && !err && (word = strsep(&rest, " \n")); i++) {
		unsigned long frame = 0;

		if (*word && kstrtoul(word, 0, &frame))
			return -EINVAL;
		if (frame && !pfn_valid(frame))
			return -EINVAL;
		if (frame)
			err = static_call(np)(page_address_of(frame), 1);
		if (!err)
			frames[i] = frame;
	}
	return err ?: len;
}

static const struct file_operations frame_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.write = frame_write,
};

static unsigned long address_of(const char *name)
{
	struct kprobe probe = { .symbol_name = name };
	unsigned long address;

	if (register_kprobe(&probe))
		return 0;
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	return address;
}

static struct dentry *dentry;

static int __init frame_init(void)
{
	unsigned long no = address_of("set_memory_np"), yes = address_of("set_memory_p");

	if (!no || !yes)
		return -ENOENT;
	static_call_update(np, (int (*)(unsigned long, int))no);
	static_call_update(p, (int (*)(unsigned long, int))yes);
	dentry = debugfs_create_file("ksm_v_fail_frame", 0200, NULL, NULL, &frame_fops);
	return PTR_ERR_OR_ZERO(dentry);
}

static void __exit frame_exit(void)
{
	debugfs_remove(dentry);
	mend_all();
}

module_init(frame_init);
module_exit(frame_exit);
MODULE_DESCRIPTION("Has loads from some frames fail");
MODULE_LICENSE("GPL");
