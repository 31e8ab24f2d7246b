// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the kernel's loads from some frames fail, like memory with uncorrectable errors: removes the
 * frames whose numbers were last written to the debugfs file ksm_v_fail_frame from the kernel's linear
 * mapping. A load that the kernel cannot recover from ends in an oops. Processes that map the frames
 * can still read them. Writing nothing restores all.
 *
 * A frame whose number is written to ksm_v_fail_frame_late fails at the moment when the module is about
 * to check whether all of it can be read. Reading that file tells how many frames have failed so.
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
/* The address in the linear mapping of a frame that fails later; 0: none. */
static unsigned long late;

static unsigned long page_address_of(unsigned long frame)
{
	return (unsigned long)__va(PFN_PHYS(frame));
}

static void mend_all(void)
{
	WRITE_ONCE(late, 0);
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

static atomic_t failed_late;

/* Removes the frame from the linear mapping of this CPU: nobody may sleep in a probe. */
static int fail_late(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long address = READ_ONCE(late);
	unsigned int level;
	pte_t *pte;

	if (!address || regs_get_kernel_argument(regs, 0) != address)
		return 0;
	pte = lookup_address(address, &level);
	if (!pte || level != PG_LEVEL_4K)
		return 0;
	WRITE_ONCE(late, 0);
	/* As set_memory_np(). pfn_pte() inverts the number of a frame that is not present. */
	set_pte(pte, pfn_pte(pte_pfn(*pte),
			     __pgprot(pte_flags(*pte) & ~(_PAGE_PRESENT | _PAGE_GLOBAL))));
	asm volatile("invlpg (%0)" : : "r" (address) : "memory");
	atomic_inc(&failed_late);
	return 0;
}

static struct kprobe late_probe = {
	.symbol_name = "ksm_v_page_is_readable",
	.pre_handler = fail_late,
};

/* Has the frame a mapping of its own, which a probe can change, and waits for the check. */
static ssize_t late_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	unsigned long frame, address;
	int err = kstrtoul_from_user(text, len, 0, &frame);

	if (err)
		return err;
	if (!frame || !pfn_valid(frame))
		return -EINVAL;
	mend_all();
	address = page_address_of(frame);
	err = static_call(np)(address, 1);
	if (err)
		return err;
	err = static_call(p)(address, 1);
	if (err)
		return err;
	frames[0] = frame;
	atomic_set(&failed_late, 0);
	WRITE_ONCE(late, address);
	return len;
}

static ssize_t late_read(struct file *file, char __user *buffer, size_t len, loff_t *pos)
{
	char text[16];

	return simple_read_from_buffer(buffer, len, pos, text,
				       scnprintf(text, sizeof(text), "%d\n", atomic_read(&failed_late)));
}

static const struct file_operations late_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.read = late_read,
	.write = late_write,
};

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

static struct dentry *dentry, *late_dentry;

static int __init frame_init(void)
{
	unsigned long no = address_of("set_memory_np"), yes = address_of("set_memory_p");

	if (!no || !yes)
		return -ENOENT;
	static_call_update(np, (int (*)(unsigned long, int))no);
	static_call_update(p, (int (*)(unsigned long, int))yes);
	if (register_kprobe(&late_probe))
		return -ENOENT;
	dentry = debugfs_create_file("ksm_v_fail_frame", 0200, NULL, NULL, &frame_fops);
	late_dentry = debugfs_create_file("ksm_v_fail_frame_late", 0600, NULL, NULL, &late_fops);
	return 0;
}

static void __exit frame_exit(void)
{
	debugfs_remove(late_dentry);
	debugfs_remove(dentry);
	unregister_kprobe(&late_probe);
	mend_all();
}

module_init(frame_init);
module_exit(frame_exit);
MODULE_DESCRIPTION("Has loads from some frames fail");
MODULE_LICENSE("GPL");
