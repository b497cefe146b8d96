#!/usr/bin/env perl
# Puts faults into the code: tests/mutants/mutate.pl TREE LABEL WHAT INSTEAD [WHAT INSTEAD]... [-- LABEL ...]...
#
# LABEL names a function that ref/ or cuda/ defines, wherever that is; WHAT, tokens of C that lie in it once, whatever
# white space and comments are between them; INSTEAD takes their place, and the changed file goes into TREE, all else in
# it as it was. In WHAT
#   $name  is an identifier, or with members (x, m.x, s->m.x), the same one wherever it stands again, in any WHAT;
#   ...    is what lies before the next token of WHAT, as short as it gets: within a statement, brackets in pairs;
# and INSTEAD may take up both, its first ... the first of WHAT. Where several functions have the name (overloads,
# rungs of the ladders), it is the one in which WHAT lies; of several names, "a b", WHAT lies in each. An empty TREE gets
# nothing: that only asks whether all the faults apply. A line on standard error says which does not, and why. Needs no
# module, perl-base will do.
use strict;
use warnings;

my $token = qr{[A-Za-z_\$]\w* | \.?\d(?:[eEpP][+-]|[\w.]|'\w)* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \.\.\. | <<=?
             | [-+*/%&|^=!<>]= | \+\+ | -- | && | \|\| | -> | :: | .}xs; # but not >>, which may close two templates
my $gap = qr{(?:\s | \\\n | //[^\n]* | /\*.*?\*/)*+}xs;
my $name = qr{[A-Za-z_]\w*};
my $grammar = qr{(?(DEFINE)(?<_run> [^;()\[\]{}\0][^\0]*\0 | [(\[{]\0 (?:(?&_run)|;\0)* [)\]}]\0 ))}x; # of a statement

sub tokens { # each [text, begin, end]
    my @found;
    push @found, [$1, $-[1], $+[1]] while $_[0] =~ /\G$gap($token)/gc;
    return @found;
}

sub files { # the sources below a folder
    return map { -d $_ ? files($_) : /\.(?:c|h|cu|cuh|cpp)$/ ? $_ : () } glob "$_[0]/*";
}

my %file; # name => {text, functions}
for my $path (map { files($_) } 'ref', 'cuda') {
    open my $in, '<', $path or die "$path: $!\n";
    local $/;
    $file{$path}{text} = <$in>;
}

sub functions { # of a file: name => [token...]..., each from the name to the brace that closes the body
    my $f = shift;
    return $f->{functions} if $f->{functions};
    my @t = tokens($f->{text});
    my (%end, @open); # of each bracket the one that closes it
    for my $i (0 .. $#t) {
        if ($t[$i][0] =~ /^[(\[{]$/) { push @open, $i }
        elsif ($t[$i][0] =~ /^[)\]}]$/) { $end{pop @open // ''} = $i }
    }
    $f->{functions} = {};
    for (my $i = 0; $i < $#t; $i++) {
        my $body = ($end{$i + 1} // next) + 1;
        $body++ while ($t[$body][0] // '') =~ /^(?:const|noexcept|override)$/;
        next unless $t[$i][0] =~ /^\w/ && $t[$i + 1][0] eq '(' && ($t[$body][0] // '') eq '{' && $end{$body};
        push @{$f->{functions}{$t[$i][0]}}, [@t[$i .. $end{$body}]];
        $i = $end{$body};
    }
    return $f->{functions};
}

sub pattern { # pattern(WHAT, what is bound already), for tokens that a \0 ends
    my ($what, $bound) = @_;
    my ($dots, $is, %met) = (0, '');
    for (tokens($what)) {
        my $text = $_->[0];
        if ($text eq '...') { $is .= '(?<_dots' . ++$dots . '>(?:(?&_run))*?)' }
        elsif ($text !~ /^\$(.+)/) { $is .= quotemeta($text) . '\x00' }
        elsif (defined $bound->{$1}) { $is .= quotemeta($bound->{$1}) . '\x00' }
        elsif ($met{$1}++) { $is .= "\\k<$1>\\x00" }
        else { $is .= "(?<!\\.\\x00)(?<!->\\x00)(?<$1>$name(?:\\x00(?:\\.|->)\\x00$name)*)\\x00" }
    }
    return qr{(?<![^\0])$is$grammar};
}

sub place { # place(LABEL, WHAT, what is bound already): [file, begin, end, what WHAT binds]
    my ($label, $what, $bound) = @_;
    my ($pattern, $known, @found) = pattern($what, $bound);
    for my $path (sort keys %file) {
        next unless $file{$path}{text} =~ /\b\Q$label\E\s*\(/;
        for my $t (@{functions($file{$path})->{$label} // []}) {
            my ($text, %number) = ('');
            $known = 1;
            for my $i (0 .. $#$t) {
                $number{length $text} = $i;
                $text .= "$t->[$i][0]\0";
            }
            $number{length $text} = @$t;
            while ($text =~ /$pattern/g) {
                push @found, [$path, $t->[$number{$-[0]}][1], $t->[$number{$+[0]} - 1][2], {%+}];
                pos($text) = $-[0] + 1; # they may overlap
            }
        }
    }
    die "$label: no such function in ref/ and cuda/\n" unless $known;
    my @lines = map { "$_->[0]:" . (1 + substr($file{$_->[0]}{text}, 0, $_->[1]) =~ tr/\n//) } @found;
    die "$label: '$what' matches " . @found . " times" . (@found ? ": @lines" : '') . "\n" if @found != 1;
    return $found[0];
}

sub mutate { # mutate(TREE, LABEL, WHAT, INSTEAD...)
    my ($tree, $labels, @edits) = @_;
    my (%changes, %text);
    for my $label (split ' ', $labels) {
        my %bound;
        for (my $i = 0; $i < @edits; $i += 2) {
            my ($what, $instead) = @edits[$i, $i + 1];
            my ($path, $begin, $end, $here) = @{place($label, $what, \%bound)};
            %bound = (%bound, %$here);
            my $dots = 0;
            $instead =~ s{\$(\w+)|\.\.\.}{
                my $text = defined $1 ? $bound{$1} : $here->{'_dots' . ++$dots};
                die "$label: '$instead' takes up what '$what' has not\n" unless defined $text;
                defined $1 ? $text =~ tr/\0//dr : $text =~ tr/\0/ /r}ge;
            push @{$changes{$path}}, [$begin, $end, $instead];
        }
    }
    for my $path (keys %changes) {
        $text{$path} = $file{$path}{text};
        my $behind = length $text{$path};
        for (sort { $b->[0] <=> $a->[0] } @{$changes{$path}}) { # the last first: places before it stay
            my ($begin, $end, $new) = @$_;
            die "$labels: '@edits' changes something twice\n" if $end > $behind;
            substr($text{$path}, $begin, $end - $begin) = $new;
            $behind = $begin;
        }
        die "$labels: '@edits' changes nothing\n" if $text{$path} eq $file{$path}{text};
        next if $tree eq '';
        open my $out, '>', "$tree/$path" or die "$tree/$path: $!\n";
        print $out $text{$path};
        close $out or die "$tree/$path: $!\n";
    }
}

my ($tree, @left) = @ARGV;
my ($failed, @fault) = 0;
for my $word (@left, '--') {
    if ($word ne '--') {
        push @fault, $word;
        next;
    }
    die "usage: mutate.pl TREE LABEL WHAT INSTEAD [WHAT INSTEAD]... [-- LABEL ...]...\n" if @fault < 3 || @fault % 2 != 1;
    eval { mutate($tree, @fault); 1 } or $failed = print STDERR $@;
    @fault = ();
}
exit $failed;
