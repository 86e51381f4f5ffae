<?php
// Compares stubs/*.stub.php with what the loaded extension shows through Reflection.
//
//   php -d extension=libmemring.so tests/suite/php/stubs.php     exit 0 when equal, else 1 and the differences
//
// Run with an argument it prints a description of what a PHP without the extension knows
// after loading the stubs; the first run starts that one. Compared are constants, classes,
// parents, properties, methods, functions, parameters with type, by-reference mark and
// whether they can be left out, and results. Defaults are compared where the extension has
// one: a stub may say more. Method names are compared without case.

const CLASSES = ['MemcachePool', 'Memcache', 'Memring\Memcache'];

function type(?ReflectionType $type): string
{
    if ($type === null) {
        return '';
    }
    $names = explode('|', ltrim((string) $type, '?'));
    if ($type->allowsNull() && !in_array('mixed', $names, true)) {
        $names[] = 'null';
    }
    $names = array_unique($names);
    sort($names);
    return implode('|', $names);
}

function callee(ReflectionFunctionAbstract $function): array
{
    $parameters = [];
    foreach ($function->getParameters() as $parameter) {
        $parameters[] = [
            'name' => $parameter->getName(),
            'type' => type($parameter->getType()),
            'reference' => $parameter->isPassedByReference(),
            'optional' => $parameter->isOptional(),
            'default' => $parameter->isDefaultValueAvailable() ? var_export($parameter->getDefaultValue(), true) : null,
        ];
    }
    return ['parameters' => $parameters, 'result' => type($function->getReturnType() ?? $function->getTentativeReturnType())];
}

function describe(): array
{
    $known = ['constants' => [], 'classes' => [], 'functions' => []];
    foreach (get_defined_constants() as $name => $value) {
        if (str_starts_with($name, 'MEMCACHE_')) {
            $known['constants'][$name] = $value;
        }
    }
    foreach (CLASSES as $name) {
        $class = new ReflectionClass($name);
        $row = ['parent' => $class->getParentClass() ? $class->getParentClass()->getName() : '', 'properties' => [], 'methods' => []];
        foreach ($class->getProperties() as $property) {
            if ($property->getDeclaringClass()->getName() === $name) {
                $row['properties'][] = implode(' ', Reflection::getModifierNames($property->getModifiers())) . ' $' . $property->getName();
            }
        }
        foreach ($class->getMethods() as $method) {
            if ($method->getDeclaringClass()->getName() === $name) {
                $row['methods'][strtolower($method->getName())] = callee($method);
            }
        }
        ksort($row['methods']);
        $known['classes'][$name] = $row;
    }
    foreach (get_defined_functions() as $functions) {
        foreach ($functions as $name) {
            if (preg_match('/^(memcache_|memring[_\\\\])/', $name)) {
                $known['functions'][$name] = callee(new ReflectionFunction($name));
            }
        }
    }
    ksort($known['constants']);
    ksort($known['functions']);
    return $known;
}

/** All differences, as "path: stub … extension …". */
function differences(mixed $stub, mixed $extension, string $path = ''): array
{
    if (str_ends_with($path, '/default') && $extension === null) {
        return [];
    }
    if (!is_array($stub) || !is_array($extension)) {
        return $stub === $extension ? [] : ["$path: stub " . json_encode($stub) . ', extension ' . json_encode($extension)];
    }
    $found = [];
    foreach (array_unique(array_merge(array_keys($stub), array_keys($extension))) as $key) {
        if (!array_key_exists($key, $stub)) {
            $found[] = "$path/$key: not in the stub";
        } elseif (!array_key_exists($key, $extension)) {
            $found[] = "$path/$key: only in the stub";
        } else {
            array_push($found, ...differences($stub[$key], $extension[$key], "$path/$key"));
        }
    }
    return $found;
}

if ($argc > 1) {
    foreach (['memcache', 'memring'] as $name) {
        require dirname(__DIR__, 3) . "/stubs/$name.stub.php";
    }
    echo json_encode(describe());
    exit(0);
}

$stub = json_decode((string) shell_exec(escapeshellarg(PHP_BINARY) . ' -n ' . escapeshellarg(__FILE__) . ' describe'), true);
if (!is_array($stub)) {
    fwrite(STDERR, "the stubs do not load\n");
    exit(1);
}
$extension = json_decode(json_encode(describe()), true);
$found = differences($stub, $extension);
$callees = count($extension['functions']) + array_sum(array_map(fn($class) => count($class['methods']), $extension['classes']));
echo $found ? implode("\n", $found) . "\n" : "equal: $callees methods and functions\n";
exit($found ? 1 : 0);
