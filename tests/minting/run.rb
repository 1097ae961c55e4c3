# Appended to the page's Ruby block: cases as JSON lines on stdin, one line of answer each.
require "json"

$stdin.set_encoding("UTF-8")
$stdin.each_line do |line|
  c = JSON.parse(line)
  begin
    puts mint(c["secret"], c["key_id"], c["domain"], [c["subject"]].pack("H*"), c["expires"], c["owner"])
  rescue ArgumentError
    puts "refused"
  end
end
