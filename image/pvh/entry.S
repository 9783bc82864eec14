/*
 * Enters an x86_64 kernel image the way its VMM would, from QEMU's PVH entry.
 *
 * libkrunfw's kernel is a raw image: libkrun loads it and jumps straight to its
 * 64-bit entry, with page tables and a filled boot_params. QEMU's -kernel starts
 * an ELF that carries a PVH note instead, in 32-bit protected mode without paging
 * and with the address of a hvm_start_info in %ebx. The code below turns the
 * one into the other, in four steps.
 *
 * Sources: Linux Documentation/arch/x86/boot.rst (64-bit boot protocol),
 * zero-page.rst; Xen's public/arch-x86/hvm/start_info.h.
 */

/* Scratch memory below 640 KiB, clear of QEMU's own tables at 0x500..0x9000. */
        .set    STACK_TOP,      0x80000
        .set    BOOT_PARAMS,    0x90000
        .set    PML4,           0xa000
        .set    PDPT,           0xb000
        .set    PAGE_DIRS,      0xc000  /* four of them: 0xc000..0xffff */

/* hvm_start_info */
        .set    SI_CMDLINE,     24
        .set    SI_MEMMAP,      40
        .set    SI_MEMMAP_LEN,  48

/* boot_params */
        .set    BP_E820_LEN,    0x1e8
        .set    BP_BOOT_FLAG,   0x1fe
        .set    BP_MAGIC,       0x202
        .set    BP_VERSION,     0x206
        .set    BP_LOADER,      0x210
        .set    BP_CMDLINE,     0x228
        .set    BP_ALIGNMENT,   0x230
        .set    BP_CMDLINE_LEN, 0x238
        .set    BP_E820,        0x2d0

/* Segment selectors: the boot protocol wants code at 0x10, data at 0x18. */
        .set    CODE64,         0x10
        .set    DATA,           0x18

        .section .note.pvh, "a", @note
        .long   4                       /* length of "Xen\0" */
        .long   4                       /* length of the address */
        .long   18                      /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .long   _start

        .text
        .code32
        .globl  _start
_start:
        cli
        cld
        movl    $STACK_TOP, %esp
        movl    %ebx, %ebp              /* hvm_start_info, kept in %ebp */

/* 1. A zeroed boot_params with the setup_header fields the kernel checks. */
        movl    $BOOT_PARAMS, %edi
        xorl    %eax, %eax
        movl    $(4096 / 4), %ecx
        rep     stosl
        movw    $0xaa55, BOOT_PARAMS + BP_BOOT_FLAG
        movl    $0x53726448, BOOT_PARAMS + BP_MAGIC     /* "HdrS" */
        movw    $0x020f, BOOT_PARAMS + BP_VERSION
        movb    $0xff, BOOT_PARAMS + BP_LOADER          /* no assigned loader id */
        movl    $0x1000000, BOOT_PARAMS + BP_ALIGNMENT
        movl    SI_CMDLINE(%ebp), %eax
        movl    %eax, BOOT_PARAMS + BP_CMDLINE
        movl    $65536, BOOT_PARAMS + BP_CMDLINE_LEN

/* 2. The memory map. A PVH entry is 24 bytes (base, size, type, reserved), an
 *    e820 entry the first 20 of them: the types have the same numbers. */
        movl    SI_MEMMAP(%ebp), %esi
        movl    SI_MEMMAP_LEN(%ebp), %edx
        movb    %dl, BOOT_PARAMS + BP_E820_LEN
        movl    $(BOOT_PARAMS + BP_E820), %edi
next_range:
        testl   %edx, %edx
        jz      page_tables
        movl    $(20 / 4), %ecx
        rep     movsl
        addl    $4, %esi
        decl    %edx
        jmp     next_range

/* 3. The first 4 GiB mapped one to one by 2 MiB pages. */
page_tables:
        movl    $PML4, %edi
        xorl    %eax, %eax
        movl    $(6 * 4096 / 4), %ecx
        rep     stosl
        movl    $(PDPT + 3), PML4                       /* present, writable */
        movl    $(PAGE_DIRS + 0x0003), PDPT
        movl    $(PAGE_DIRS + 0x1003), PDPT + 8
        movl    $(PAGE_DIRS + 0x2003), PDPT + 16
        movl    $(PAGE_DIRS + 0x3003), PDPT + 24
        movl    $PAGE_DIRS, %edi
        movl    $0x83, %eax                             /* and a large page */
        movl    $(4 * 512), %ecx
map_page:
        movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    map_page

/* 4. Long mode: PAE, the tables, EFER.LME, paging; then the 64-bit entry, with
 *    boot_params in %rsi. */
        movl    %cr4, %eax
        orl     $0x20, %eax
        movl    %eax, %cr4
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000001, %eax
        movl    %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $CODE64, $long_mode

        .code64
long_mode:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    %ax, %fs
        movw    %ax, %gs
        movl    $BOOT_PARAMS, %esi
        xorl    %ebp, %ebp
        xorl    %edi, %edi
        xorl    %ebx, %ebx
        movl    $KERNEL_ENTRY, %eax
        jmp     *%rax

        .balign 16
gdt:
        .quad   0, 0                                    /* null, unused */
        .quad   0x00af9b000000ffff                      /* CODE64 */
        .quad   0x00cf93000000ffff                      /* DATA */
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .section .kernel, "aw"
        .incbin "kernel.bin"
