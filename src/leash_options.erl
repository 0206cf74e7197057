%% Converts Erlang options to those of the Elixir side: charlists become binaries, proplists and
%% maps become keyword lists.
%%
%% If a value cannot be converted, then it stays as it is. So the check of that option refuses it
%% under its own name.
-module(leash_options).

-export([to_elixir/1, group/1, text/1, texts/1]).

-export_type([text/0]).

%% A charlist of Unicode characters, or a binary; any bytes but NUL.
-type text() :: string() | binary().

%% Converts a map or a proplist to a keyword list.
%%
%% An option with the value `undefined` counts as not given.
-spec to_elixir(term()) -> {ok, term()} | {error, map()}.
to_elixir(Options) when is_map(Options) ->
    convert(maps:to_list(Options), []);
to_elixir(Options) ->
    case is_proper(Options) of
        true -> convert(proplists:unfold(Options), []);
        false -> {ok, Options}
    end.

convert([], Converted) ->
    {ok, lists:reverse(Converted)};
convert([{_Key, undefined} | Options], Converted) ->
    convert(Options, Converted);
convert([{Key, Value} | Options], Converted) ->
    case option(Key, Value) of
        {error, Error} -> {error, Error};
        New -> convert(Options, [{Key, New} | Converted])
    end;
convert([Other | Options], Converted) ->
    convert(Options, [Other | Converted]).

option(Key, Value) when
    Key =:= command;
    Key =:= shell;
    Key =:= cd;
    Key =:= arg0;
    Key =:= run_id_flag;
    Key =:= label;
    Key =:= user;
    Key =:= gid
->
    text(Value);
option(Key, Value) when Key =:= args; Key =:= groups; Key =:= clear_env ->
    texts(Value);
option(group, Value) ->
    group(Value);
option(env, Value) ->
    env(Value);
option(name, {local, Name}) when is_atom(Name) ->
    Name;
option(stop, Steps) ->
    each(Steps, fun
        ({cmd, Command, Milliseconds}) -> {cmd, texts(Command), Milliseconds};
        (Step) -> Step
    end);
option(ready, {Kind, Target}) when Kind =:= http; Kind =:= tcp; Kind =:= unix ->
    address({Kind, Target});
option(wait_for, Targets) when is_list(Targets) ->
    each(Targets, fun address/1);
option(wait_for, Target) ->
    address(Target);
option(health, Check) when is_map(Check); is_list(Check) ->
    health(Check);
option(capabilities, Sets) when is_map(Sets) ->
    maps:to_list(Sets);
option(guard, Limits) when is_map(Limits); is_list(Limits) ->
    guard(Limits);
option(Key, Options) when
    is_map(Options),
    (Key =:= lines orelse Key =:= timeout orelse Key =:= pty orelse Key =:= restart_delay)
->
    maps:to_list(Options);
option(Key, {log, Log}) when
    (Key =:= on_output orelse Key =:= on_stderr) andalso (is_map(Log) orelse is_list(Log))
->
    {log,
        pairs(Log, fun
            (prefix, []) -> <<>>;
            (prefix, Value) -> text(Value);
            (metadata, Value) when is_map(Value) -> maps:to_list(Value);
            (_Key, Value) -> Value
        end)};
option(cgroup, Limits) when is_map(Limits); is_list(Limits) ->
    cgroup(Limits);
option(Key, {file, Path}) when Key =:= stdout; Key =:= stderr ->
    {file, text(Path)};
option(Key, {file, Path, Options}) when Key =:= stdout; Key =:= stderr ->
    {file, text(Path),
        pairs(Options, fun
            (rotate, Rotate) -> pairs(Rotate, fun(_Key, Value) -> text(Value) end);
            (_Key, Value) -> Value
        end)};
option(ready, {regex, Pattern}) ->
    regex({regex, Pattern}, Pattern, <<>>);
option(ready, {regex, Pattern, Modifiers}) ->
    regex({regex, Pattern, Modifiers}, Pattern, Modifiers);
option(_Key, Value) ->
    Value.

address({http, Target}) -> {http, http(Target)};
address({tcp, {Host, Port}}) -> {tcp, {text(Host), Port}};
address({Kind, Path}) when Kind =:= unix; Kind =:= file -> {Kind, text(Path)};
address(Other) -> Other.

http({Port, Path}) -> {Port, text(Path)};
http(Target) -> text(Target).

health(Check) ->
    pairs(Check, fun
        (check, Address) -> address(Address);
        (_Key, Value) -> Value
    end).

guard(Limits) ->
    pairs(Limits, fun
        (rss, Value) -> text(Value);
        (_Key, Value) -> Value
    end).

cgroup(Limits) ->
    pairs(Limits, fun
        (Key, Value) when Key =:= memory; Key =:= swap -> text(Value);
        (_Key, Value) -> Value
    end).

pairs(Pairs, Convert) when is_map(Pairs) ->
    pairs(maps:to_list(Pairs), Convert);
pairs(Pairs, Convert) ->
    each(Pairs, fun
        ({Key, Value}) -> {Key, Convert(Key, Value)};
        (Other) -> Other
    end).

regex(Given, Pattern, Modifiers) ->
    case {text(Pattern), modifiers(Modifiers)} of
        {Source, Letters} when is_binary(Source), is_binary(Letters) ->
            compile(Given, Source, Letters);
        _ ->
            refused(Given, <<"{regex, Pattern} or {regex, Pattern, Modifiers} of strings">>)
    end.

modifiers([]) -> <<>>;
modifiers(Modifiers) -> text(Modifiers).

compile(Given, Source, Letters) ->
    try 'Elixir.Regex':compile(Source, Letters) of
        {ok, Regex} ->
            Regex;
        {error, {Reason, At}} when is_integer(At) ->
            Text = io_lib:format("a regular expression (~ts at ~b)", [Reason, At]),
            refused(Given, unicode:characters_to_binary(Text));
        {error, _Reason} ->
            refused(Given, <<"a regular expression with modifiers of Elixir's Regex">>)
    catch
        error:_ -> refused(Given, <<"a regular expression with modifiers of Elixir's Regex">>)
    end.

refused(Given, Expected) ->
    Fields = [{key, ready}, {expected, Expected}, {value, Given}],
    {error, 'Elixir.Leash.OptionsError':exception(Fields)}.

%% The port driver's `false` and Elixir's `nil` both unset a variable.
env(Env) when is_map(Env) ->
    env(maps:to_list(Env));
env(Env) ->
    each(Env, fun
        ({Name, false}) -> {text(Name), nil};
        ({Name, []}) -> {text(Name), <<>>};
        ({Name, Value}) -> {text(Name), text(Value)};
        (Other) -> Other
    end).

-spec group(term()) -> term().
group(Group) -> text(Group).

-spec texts(term()) -> term().
texts(Texts) ->
    each(Texts, fun
        ([]) -> <<>>;
        (Text) -> text(Text)
    end).

%% An empty list may be an empty string or an empty list. The caller knows which, so the
%% function returns the list as it is.
-spec text(term()) -> term().
text([_ | _] = Charlist) ->
    try unicode:characters_to_binary(Charlist) of
        Text when is_binary(Text) -> Text;
        _Incomplete -> Charlist
    catch
        error:badarg -> Charlist
    end;
text(Other) ->
    Other.

each(List, Convert) ->
    case is_proper(List) of
        true -> lists:map(Convert, List);
        false -> List
    end.

is_proper(List) -> is_list(List) andalso length_or_none(List) =/= none.

length_or_none(List) ->
    try
        length(List)
    catch
        error:badarg -> none
    end.
