r"""How real tools save a file: the patterns that every mount is held to.

``WHOLE``: what is left is "new\n", wherever the program got it from. ``EDITS``: what is
left is the head with line 3 changed. ``SILENT``: tools that end with 0 though they
were refused. Scripts of bash; ``../`` is a directory outside the mount, with the
files ``new`` and ``edit.patch``.
"""

from __future__ import annotations

__all__ = ["EDITS", "LINES", "PROGRAMS", "SILENT", "WHOLE"]


def _python(code: str) -> str:
    return f"python3 - <<'END'\n{code}\nEND"


LINES = b"".join(b"line %d of the plan\n" % n for n in range(1, 21))

# Whole-file saves: what they leave is "new\n", wherever the program got it from.
WHOLE = {
    "bash_redirect": "echo new > plans/plan.md",
    "bash_heredoc": "cat > plans/plan.md <<'E'\nnew\nE",
    "bash_group": "{ printf n; /bin/echo -n e; sleep 0.05; echo w; } > plans/plan.md",
    "tee": "echo new | tee plans/plan.md >/dev/null",
    "cp": "cp ../new plans/plan.md",
    "cp_force": "cp -f ../new plans/plan.md",
    "cp_remove": "cp --remove-destination ../new plans/plan.md",
    "cp_backup": "cp -b ../new plans/plan.md",
    "dd": "dd if=../new of=plans/plan.md status=none",
    "install": "install -m 644 ../new plans/plan.md",
    "mv_from_outside": "cp ../new ../new2 && mv ../new2 plans/plan.md",
    "temp_and_rename": "echo new > plans/.tmp1 && mv plans/.tmp1 plans/plan.md",
    "unmanaged_temp": "echo new > tmp1 && mv tmp1 plans/plan.md",
    "rm_and_create": "rm plans/plan.md && echo new > plans/plan.md",
    "backup_rename": "mv plans/plan.md plans/plan.md~ && echo new > plans/plan.md",
    "backup_outside": "mv plans/plan.md old~ && echo new > plans/plan.md",
    "truncate_then_append": "truncate -s 0 plans/plan.md && echo new >> plans/plan.md",
    "link_dance": "echo new > t1 && ln plans/plan.md b1 && rm plans/plan.md"
    " && ln t1 plans/plan.md && rm t1",
    "ln_force": "echo new > t1 && ln -f t1 plans/plan.md",
    "python_open": "python3 -c \"f = open('plans/plan.md', 'w'); f.write('new\\n'); f.close()\"",
    "python_unclosed": "python3 -c \"open('plans/plan.md', 'w').write('new\\n')\"",
    "python_rplus": "python3 -c \"f = open('plans/plan.md', 'r+'); f.truncate(0);"
    " f.write('new\\n'); f.close()\"",
    "python_replace": "python3 -c \"import os; open('plans/t', 'w').write('new\\n');"
    " os.replace('plans/t', 'plans/plan.md')\"",
    "python_mmap": "python3 -c \"import mmap, os; f = open('plans/plan.md', 'r+b');"
    " m = mmap.mmap(f.fileno(), 0); m[:4] = b'new\\n'; m.flush(); m.close(); f.truncate(4);"
    ' f.close()"',
    "python_truncate_path": "python3 -c \"import os; os.truncate('plans/plan.md', 0);"
    " open('plans/plan.md', 'w').write('new\\n')\"",
    "tar": "mkdir ../t && cp ../new ../t/plan.md && tar -C ../t -cf ../t.tar plan.md"
    " && tar -C plans -xf ../t.tar",
    "perl_rename": 'perl -e \'open F, ">plans/t"; print F "new\\n"; close F;'
    ' rename "plans/t", "plans/plan.md" or exit 1\'',
    "ed": "printf ',d\\ni\\nnew\\n.\\nw\\nq\\n' | ed -s plans/plan.md",
    "vim_write": "vim -es -u NONE -i NONE -n -c '%d' -c 's/^/new/' -c 'wq' plans/plan.md",
    "vim_in_place": "vim -es -u NONE -i NONE -n -c 'set backupcopy=yes' -c '%d' -c 's/^/new/'"
    " -c wq plans/plan.md",
    "sort_output": "echo new > t1; sort -o plans/plan.md t1",
    "exchange": "python3 -c \"import ctypes, os; open('t1', 'w').write('new\\n');"
    " r = ctypes.CDLL(None, use_errno=True).renameat2(-100, b't1', -100, b'plans/plan.md', 2);"
    ' os._exit(-r)"',
    "bash_cleared_before": ": > plans/plan.md; echo new > plans/plan.md",
    "bash_descriptor": "exec 3> plans/plan.md && echo new >&3 && exec 3>&-",
    "bash_clobber": "set -o noclobber; echo new >| plans/plan.md",
    "bash_two_commands": "{ head -c 2 ../new; tail -c +3 ../new; } > plans/plan.md",
    "tee_two_files": "tee copy plans/plan.md < ../new > /dev/null",
    "cp_preserving": "cp -p ../new plans/plan.md",
    "cp_reflink": "cp --reflink=auto --sparse=always ../new plans/plan.md",
    "cp_hard_link": "cp ../new t1 && cp -lf t1 plans/plan.md && rm t1",
    "mv_forced": "cp ../new t1 && mv -f t1 plans/plan.md",
    "mv_backup": "cp ../new t1 && mv -b t1 plans/plan.md",
    "mv_no_directory": "cp ../new plans/t1 && mv -T plans/t1 plans/plan.md",
    "install_backup": "install -b -m 600 ../new plans/plan.md",
    "dd_blocks": "dd if=../new of=plans/plan.md bs=1 status=none",
    "sort_in_place_of": "sort -u ../new -o plans/plan.md",
    "shuf_output": "shuf -n 1 -o plans/plan.md ../new",
    "uniq_output": "uniq ../new plans/plan.md",
    "iconv_output": "iconv -f utf8 -t utf8 -o plans/plan.md ../new",
    "split_output": "cp ../new t1 && split -l 9 -a 1 t1 part. && mv part.a plans/plan.md",
    "sponge_pipe": "cat ../new | sponge plans/plan.md",
    "dos2unix_new_file": "printf 'new\\r\\n' > t1 && dos2unix -n t1 plans/plan.md",
    "xxd_reverse": "xxd ../new t1 && rm -f t2 && xxd -r t1 t2 && mv t2 plans/plan.md",
    "gunzip_to": "gzip -c ../new > t.gz && gunzip -c t.gz > plans/plan.md",
    "make_recipe": "printf 'plans/plan.md: FORCE\\n\\techo new > $@\\nFORCE:\\n' > Makefile"
    " && make -s",
    "rsync_plain": "rsync -I ../new plans/plan.md",
    "rsync_in_place": "rsync -I --inplace ../new plans/plan.md",
    "rsync_backup": "rsync -I -b ../new plans/plan.md",
    "tar_overwrite": "mkdir ../t && cp ../new ../t/plan.md && tar -C ../t -cf ../t.tar plan.md"
    " && tar -C plans --overwrite -xf ../t.tar",
    "tar_unlink_first": "mkdir ../t && cp ../new ../t/plan.md && tar -C ../t -cf ../t.tar plan.md"
    " && tar -C plans -U -xf ../t.tar",
    "unzip_over": "mkdir ../t && cp ../new ../t/plan.md && (cd ../t && zip -q ../t.zip plan.md)"
    " && unzip -qo ../t.zip -d plans",
    "git_checkout": "git init -q . && git update-index --add --cacheinfo"
    " 100644,$(git hash-object -w ../new),plans/plan.md && git checkout -f -- plans/plan.md",
    "git_checkout_index": "git init -q . && git update-index --add --cacheinfo"
    " 100644,$(git hash-object -w ../new),plans/plan.md && git checkout-index -f -a",
    "git_restore": "git init -q . && git update-index --add --cacheinfo"
    " 100644,$(git hash-object -w ../new),plans/plan.md && git restore plans/plan.md",
    "git_show": "git init -q . && blob=$(git hash-object -w ../new)"
    " && git cat-file -p $blob > plans/plan.md",
    "sqlite3_output": "sqlite3 :memory: '.output plans/plan.md' 'select \"new\"'",
    "jq_output": "jq -n -r '\"new\"' > plans/plan.md",
    "perl_open": 'perl -e \'open F, ">", "plans/plan.md" or exit 1; print F "new\\n";'
    " close F or exit 1'",
    "node_write": 'node -e \'require("fs").writeFileSync("plans/plan.md", "new\\n")\'',
    "node_stream": 'node -e \'const s = require("fs").createWriteStream("plans/plan.md");'
    ' s.end("new\\n")\'',
    "node_rename": 'node -e \'const fs = require("fs"); fs.writeFileSync("plans/t", "new\\n");'
    ' fs.renameSync("plans/t", "plans/plan.md")\'',
    "vim_forced": "vim -es -u NONE -i NONE -n -c 'set nowritebackup' -c '%d' -c 's/^/new/'"
    " -c 'w!' -c 'q' plans/plan.md",
    "vim_backup": "vim -es -u NONE -i NONE -n -c 'set backup backupcopy=no' -c '%d'"
    " -c 's/^/new/' -c wq plans/plan.md",
    "python_pathlib": _python(
        "from pathlib import Path; Path('plans/plan.md').write_text('new\\n')"
    ),
    "python_copy": _python("import shutil; shutil.copyfile('../new', 'plans/plan.md')"),
    "python_move": _python(
        "import shutil; shutil.copy('../new', 't1'); shutil.move('t1', 'plans/plan.md')"
    ),
    "python_low_level": _python(
        "import os\nfd = os.open('plans/plan.md', os.O_RDWR)\nos.write(fd, b'new\\n')\n"
        "os.ftruncate(fd, 4)\nos.fsync(fd)\nos.close(fd)"
    ),
    "python_duplicated": _python(
        "import os\nfd = os.open('plans/plan.md', os.O_WRONLY | os.O_TRUNC)\ntwo = os.dup(fd)\n"
        "os.write(fd, b'ne')\nos.close(fd)\nos.write(two, b'w\\n')\nos.close(two)"
    ),
    "python_thread": _python(
        "import os, threading\nfd = os.open('plans/plan.md', os.O_WRONLY | os.O_TRUNC)\n"
        "t = threading.Thread(target=os.write, args=(fd, b'new\\n'))\nt.start()\nt.join()\n"
        "os.close(fd)"
    ),
    "python_child": _python(
        "import os, subprocess\nf = open('plans/plan.md', 'w')\n"
        "subprocess.run(['cat', '../new'], stdout=f, check=True)\nf.close()"
    ),
    "python_sendfile": _python(
        "import os\nout = os.open('plans/plan.md', os.O_WRONLY | os.O_TRUNC)\n"
        "os.sendfile(out, os.open('../new', 0), 0, 9)\nos.close(out)"
    ),
    "python_copy_range": _python(
        "import os, shutil\nshutil.copy('../new', 't1')\n"
        "out = os.open('plans/plan.md', os.O_WRONLY | os.O_TRUNC)\n"
        "os.copy_file_range(os.open('t1', 0), out, 9)\nos.close(out)"
    ),
    "python_allocated": _python(
        "import os\nfd = os.open('plans/plan.md', os.O_WRONLY | os.O_TRUNC)\n"
        "os.posix_fallocate(fd, 0, 100)\nos.write(fd, b'new\\n')\nos.ftruncate(fd, 4)\nos.close(fd)"
    ),
    "python_durable": _python(
        "import os, tempfile\nfd, name = tempfile.mkstemp(dir='plans')\nos.write(fd, b'new\\n')\n"
        "os.fsync(fd)\nos.close(fd)\nos.replace(name, 'plans/plan.md')\n"
        "os.fsync(os.open('plans', 0))"
    ),
    "python_renamed_while_open": _python(
        "import os\nf = open('t1', 'w')\nf.write('new\\n')\nf.flush()\n"
        "os.replace('t1', 'plans/plan.md')\nf.close()"
    ),
    "python_zipfile": "mkdir ../t && cp ../new ../t/plan.md"
    " && python3 -m zipfile -c ../t.zip ../t/plan.md && python3 -m zipfile -e ../t.zip plans",
}
# Edits of one line: what they leave is the head with line 3 changed.
EDITS = {
    "sed": "sed -i 's/^line 3 .*/edited/' plans/plan.md",
    "sed_backup": "sed -i.bak 's/^line 3 .*/edited/' plans/plan.md",
    "perl": "perl -pi -e 's/^line 3 .*/edited/' plans/plan.md",
    "patch": "patch -s plans/plan.md ../edit.patch",
    "python": "python3 -c \"s = open('plans/plan.md').read();"
    " open('plans/plan.md', 'w').write(s.replace('line 3 of the plan', 'edited'))\"",
    "awk": "awk '{sub(/^line 3 .*/, \"edited\")} 1' plans/plan.md > t && mv t plans/plan.md",
    "sed_posix": "sed --posix -i 's/^line 3 .*/edited/' plans/plan.md",
    "sed_to_temp": "sed 's/^line 3 .*/edited/' plans/plan.md > plans/t"
    " && cat plans/t > plans/plan.md",
    "sed_found": "find plans -name plan.md -exec sed -i 's/^line 3 .*/edited/' {} +",
    "sed_copy": "cp plans/plan.md t && sed -i 's/^line 3 .*/edited/' t && cp t plans/plan.md",
    "perl_backup": "perl -i.bak -pe 's/^line 3 .*/edited/' plans/plan.md",
    "gawk_in_place": "gawk -i inplace '{sub(/^line 3 .*/, \"edited\")} 1' plans/plan.md",
    "sponge_pipe": "sed 's/^line 3 .*/edited/' plans/plan.md | sponge plans/plan.md",
    "patch_backup": "patch -s -b plans/plan.md ../edit.patch",
    "patch_output": "patch -s -o t plans/plan.md ../edit.patch && mv t plans/plan.md",
    "ed_line": "printf '3c\\nedited\\n.\\nw\\nq\\n' | ed -s plans/plan.md",
    "vim_line": "vim -es -u NONE -i NONE -n -c '3s/.*/edited/' -c wq plans/plan.md",
    "vim_line_in_place": "vim -es -u NONE -i NONE -n -c 'set backupcopy=yes'"
    " -c '3s/.*/edited/' -c wq plans/plan.md",
    "python_replace": _python(
        "import os\ns = open('plans/plan.md').read()\n"
        "open('plans/t', 'w').write(s.replace('line 3 of the plan', 'edited'))\n"
        "os.replace('plans/t', 'plans/plan.md')"
    ),
    "node_edit": 'node -e \'const fs = require("fs"); const p = "plans/plan.md";'
    ' fs.writeFileSync(p, fs.readFileSync(p, "utf8").replace(/^line 3 .*/m, "edited"))\'',
}
SILENT = {
    "touch": "touch plans/plan.md",
}
PROGRAMS = {
    name: name
    for name in (
        *("dos2unix", "ed", "gawk", "git", "jq", "make", "node", "patch", "perl", "rsync"),
        *("sponge", "sqlite3", "unzip", "vim", "xxd", "zip"),
    )
}
