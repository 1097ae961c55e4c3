// Appended to the page's PHP block: cases as JSON lines on stdin, one line of answer each.
while (($line = fgets(STDIN)) !== false) {
    $c = json_decode($line, true, 8, JSON_THROW_ON_ERROR);
    try {
        echo mint($c['secret'], $c['key_id'], $c['domain'], hex2bin($c['subject']), $c['expires'], $c['owner']), "\n";
    } catch (ValueError) {
        echo "refused\n";
    }
}
