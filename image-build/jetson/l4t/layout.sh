#!/bin/bash
# layout.sh <NVIDIA's A/B layout >ours: the partition triaged_data before the second partition table; it takes what is left of the disk.
set -euo pipefail
awk '
  /<partition name="secondary_gpt"/ && !done {
    print "        <partition name=\"triaged_data\" type=\"data\">"
    print "            <allocation_policy> sequential </allocation_policy>"
    print "            <filesystem_type> basic </filesystem_type>"
    print "            <size> 1073741824 </size>"
    print "            <file_system_attribute> 0 </file_system_attribute>"
    print "            <allocation_attribute> 0x808 </allocation_attribute>"
    print "            <percent_reserved> 0 </percent_reserved>"
    print "            <align_boundary> 16384 </align_boundary>"
    print "        </partition>"
    done = 1
  }
  { print }
  END { if (!done) { print "layout.sh: no secondary_gpt in the layout" > "/dev/stderr"; exit 1 } }
'
