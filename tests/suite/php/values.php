<?php
// Values of every type, and what a reader gets of them. Said by both sides, which need not be one PHP.
class Plain
{
    public $number = 1;
    protected $list = [1.5, null, 'text'];
    private $hidden = 'x';
    public ?Plain $other = null;
}

function values(): array
{
    mt_srand(7);
    $words = array_map(fn($n) => substr(md5((string) mt_rand()), 0, 3 + $n % 6), range(0, 400));
    $text = '';
    while (strlen($text) < 70000) {
        $text .= $words[mt_rand(0, 400)] . ' ';
    }
    $object = new Plain;
    $object->other = new Plain;
    return [
        'text' => 'abc', 'empty' => '', 'digits' => '5', 'bytes' => "\0\xff\r\n",
        // Long enough for FastLZ's second level, and for its far copies; shorter; nothing but runs.
        'far' => $text . strrev($text) . substr($text, 0, 30000), 'near' => substr($text, 0, 30000),
        'run' => str_repeat('a', 200000), 'noise' => noise(40000),
        'int' => -5, 'zero' => 0, 'largest' => PHP_INT_MAX, 'smallest' => PHP_INT_MIN,
        'float' => 0.1 + 0.2, 'huge' => 1.5e300, 'small' => -2.5e-7, 'half' => 0.5, 'whole' => 3.0, 'infinite' => INF, 'below' => -INF,
        'yes' => true, 'no' => false, 'null' => null,
        'list' => [1, 2, [3, null, true, 'four']], 'map' => ['a' => 1, 'b' => ['c' => 1.5]], 'nothing' => [],
        'long' => array_map(fn($n) => ['name' => "the value number $n of a list", 'number' => $n], range(1, 2000)),
        'object' => $object,
    ];
}

// Bytes that nothing makes smaller.
function noise(int $length): string
{
    $noise = '';
    while (strlen($noise) < $length) {
        $noise .= hash('sha256', (string) strlen($noise), true);
    }
    return $noise;
}

// What a reader has to get: JSON knows no classes.
function expected(string $serializer): array
{
    $values = values();
    if ($serializer === 'json') {
        $values['object'] = json_decode(json_encode($values['object']), true);
    }
    return $values;
}

// The names of those that are not what they should be, and what they are.
function wrong(array $expected, array $found): string
{
    $wrong = [];
    foreach ($expected as $name => $value) {
        $got = array_key_exists($name, $found) ? $found[$name] : '(nothing)';
        if (serialize($got) !== serialize($value)) {
            $wrong[] = $name . ' is ' . substr(json_encode($got, JSON_PARTIAL_OUTPUT_ON_ERROR), 0, 80);
        }
    }
    return $wrong ? implode('; ', $wrong) : 'all ' . count($expected);
}
