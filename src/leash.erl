%% Leash for Erlang: every OS process your BEAM app starts, on a leash.
%%
%%     init([]) ->
%%         Worker = leash:child_spec(#{
%%             name => {local, embedder},
%%             command => "python3",
%%             args => ["-u", "embedder.py"],
%%             ready => {regex, "READY"},
%%             stop => [{sigterm, 2000}]
%%         }),
%%         {ok, {#{}, [Worker]}}.
%%
%% The functions are those of Leash and Leash.Worker. The documentation of these modules describes
%% the functions and their options. The Erlang side differs in these points:
%%
%%   * Options are a map or a proplist. An option with the value `undefined` counts as not given.
%%   * Text is a charlist of Unicode characters or a binary. This holds for commands, arguments,
%%     directories, names of files, variables and their values, users, and groups. Returned text
%%     is always a binary.
%%   * `name` is a name as gen_server takes it, {local, Name} included, or a bare atom.
%%   * In `env` both `false` and `nil` unset a variable.
%%   * `ready` takes {regex, Pattern} and {regex, Pattern, Modifiers}. The modifiers are those of
%%     Elixir's Regex, such as "i".
%%
%% If an option is wrong, then the function raises Error, as on the Elixir side. Error is a map
%%
%%     #{key := atom(), path := [atom()], expected := binary(), value := term(),
%%       hint := binary() | nil}
%%
%% with two more keys, because Error is an Elixir exception. format_error/1 returns one sentence
%% for it.
%%
%% The end of a program is also a map, described by Leash.Exit:
%%
%%     #{status := 0..255 | nil, signal := atom() | nil, cause := atom(), ...}
%%
%% Where Elixir has nil, these maps have the atom `nil`.
-module(leash).

-export([
    child_spec/1,
    start_link/1,
    stop/1, stop/2,
    signal/2, signal/3,
    await/1, await/2,
    restart/1,
    pool_child_spec/1, pool_start_link/1,
    pool_worker/2, pool_workers/1,
    stop_all/0, stop_all/1, stop_all/2,
    info/1,
    os_pid/1,
    shim_pid/1,
    write/2, write/3,
    close_stdin/1,
    resize/3,
    reopen/1,
    cmd/1, cmd/2, cmd/3,
    open_port/1, open_port/2, open_port/3,
    attach/1, attach/2,
    adopt/1, adopt/2,
    detached/0,
    list/0, list/1,
    tree/0, tree/1,
    run_id/0,
    sweep/0, sweep/1,
    last_sweep/0,
    kill_run/1,
    capabilities/0,
    tree_info/1,
    stream/1, stream/2, stream/3,
    format_error/1
]).

-export_type([text/0, options/0, worker/0, options_error/0, exit/0, survivors/0, status/0]).

-type text() :: leash_options:text().

%% The exit status of a command, or why it was ended.
-type status() :: 0..255 | timeout | {timeout, idle} | max_output.

%% Leash.Worker:start_link/1, Leash:cmd/3 and so on list the keys and their values.
-type options() :: #{atom() => term()} | [atom() | {atom(), term()}].

%% A pid, or a registered name as gen_server:call/2 takes it.
-type worker() :: pid() | atom() | {atom(), node()} | {global, term()} | {via, module(), term()}.

-type options_error() :: #{
    '__struct__' := 'Elixir.Leash.OptionsError',
    '__exception__' := true,
    key := atom(),
    path := [atom()],
    expected := binary(),
    value := term(),
    hint := binary() | nil
}.

-type exit() :: 'Elixir.Leash.Exit':t().

%% The processes that could not be ended; an exception of Elixir, Leash.Error.
-type survivors() :: #{survivors := [map()], atom() => term()}.

%% A child specification for supervisors.
%%
%% A supervisor also restarts a program that succeeds, unless `restart` is `transient`. Besides
%% the options of start_link/1, the function takes `restart`, `id`, `shutdown` and `significant`.
-spec child_spec(options()) ->
    #{
        id := term(),
        start := {module(), atom(), [term()]},
        type := worker,
        restart := permanent | transient | temporary,
        shutdown := timeout() | brutal_kill,
        significant := boolean()
    }.
child_spec(Options) ->
    Known =
        case leash_options:to_elixir(Options) of
            {ok, [_ | _] = Converted} when length(Converted) > 0 -> Converted;
            % start_link/1 raises for wrong options.
            _Wrong -> []
        end,
    Spec = 'Elixir.Leash.Worker':child_spec(Known),
    Spec#{start => {?MODULE, start_link, [of_worker(Options)]}}.

%% The options without those that only a supervisor takes.
of_worker(Options) when is_map(Options) -> maps:without(childs(), Options);
of_worker([_ | _] = Options) when length(Options) > 0 ->
    Childs = childs(),
    [Option || Option <- Options, not lists:member(key(Option), Childs)];
of_worker(Options) ->
    Options.

childs() -> 'Elixir.Leash.Worker.ChildSpec':keys().

key({Key, _Value}) -> Key;
key(Option) -> Option.

%% Starts a program and links it to the calling process.
%%
%% Returns when the program was executed or, with `ready`, when it is ready.
-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) -> 'Elixir.Leash.Worker':start_link(converted(Options)).

%% Ends the whole tree of a worker by its ladder and returns when it is gone.
-spec stop(worker()) -> {ok, exit()} | {error, survivors() | noproc}.
stop(Worker) -> 'Elixir.Leash.Worker':stop(Worker).

%% Ends the tree like stop/1; #{kill => true} skips the ladder.
-spec stop(worker(), options()) -> {ok, exit()} | {error, survivors() | noproc}.
stop(Worker, Options) -> 'Elixir.Leash.Worker':stop(Worker, converted(Options)).

%% Sends the program a signal, such as sighup.
-spec signal(worker(), atom() | 1..64) -> ok | {error, noproc | adopted | atom()}.
signal(Worker, Signal) -> signal(Worker, Signal, []).

%% Sends a signal to the program; with #{to => group} or #{to => tree} also to what it started.
-spec signal(worker(), atom() | 1..64, options()) -> ok | {error, noproc | adopted | atom()}.
signal(Worker, Signal, Options) ->
    'Elixir.Leash.Worker':signal(Worker, Signal, converted(Options)).

%% Waits until the whole tree is gone, without a link, and returns how the program ended.
-spec await(worker()) -> {ok, exit()} | {error, survivors() | noproc}.
await(Worker) -> await(Worker, infinity).

-spec await(worker(), timeout()) -> {ok, exit()} | {error, survivors() | timeout | noproc}.
await(Worker, Timeout) -> 'Elixir.Leash.Worker':await(Worker, Timeout).

%% Ends the tree and starts the program anew in the same process, with the same options.
-spec restart(worker()) -> {ok, exit()} | {error, term()}.
restart(Worker) -> 'Elixir.Leash.Worker':restart(Worker).

%% A child specification of Leash.Pool: `worker` has the options of start_link/1 for each worker,
%% or is a function of its number that returns them.
-spec pool_child_spec(options()) -> supervisor:child_spec().
pool_child_spec(Options) -> 'Elixir.Leash.Pool':child_spec(pool(Options)).

%% Starts a pool of numbered workers, which end in parallel and under one deadline.
-spec pool_start_link(options()) -> {ok, pid()} | {error, term()}.
pool_start_link(Options) -> 'Elixir.Leash.Pool':start_link(pool(Options)).

%% The name of a worker of a pool, for the other functions.
-spec pool_worker(atom(), pos_integer()) -> worker().
pool_worker(Pool, Number) -> 'Elixir.Leash.Pool':worker(Pool, Number).

%% The workers of a pool that live, by number.
-spec pool_workers(atom()) -> [{pos_integer(), pid()}].
pool_workers(Pool) -> 'Elixir.Leash.Pool':workers(Pool).

pool(Options) ->
    case converted(Options) of
        [_ | _] = Pool -> lists:map(fun pool_option/1, Pool);
        Other -> Other
    end.

pool_option({worker, Worker}) when is_function(Worker, 1) ->
    {worker, fun(Number) -> converted(Worker(Number)) end};
pool_option({worker, Worker}) -> {worker, converted(Worker)};
pool_option({name, {local, Name}}) -> {name, Name};
pool_option(Option) -> Option.

%% Ends every worker of this node, in parallel and under one deadline.
-spec stop_all() -> {ok, [map()]} | {error, [map()]}.
stop_all() -> stop_all(all).

%% Ends every worker of a group.
-spec stop_all(atom() | text() | tuple()) -> {ok, [map()]} | {error, [map()]}.
stop_all(Group) -> stop_all(Group, []).

%% Ends every worker of a group; after #{deadline => Milliseconds}, what is left gets SIGKILL.
-spec stop_all(atom() | text() | tuple(), options()) -> {ok, [map()]} | {error, [map()]}.
stop_all(Group, Options) ->
    'Elixir.Leash':stop_all(leash_options:group(Group), converted(Options)).

%% Ties a process that Leash did not start to the calling process, or to #{owner => ...}.
%%
%% The target is a number, a port, or a handle of Leash.OSProcess.
-spec attach(pos_integer() | port() | map()) -> {ok, pid()} | {error, term()}.
attach(Target) -> attach(Target, []).

-spec attach(pos_integer() | port() | map(), options()) -> {ok, pid()} | {error, term()}.
attach(Target, Options) -> 'Elixir.Leash':attach(Target, converted(Options)).

%% Takes over a worker that on_exit => detach left running, of an earlier run or of this one.
-spec adopt(worker() | text()) -> {ok, pid()} | {error, term()}.
adopt(Name) -> adopt(Name, []).

-spec adopt(worker() | text(), options()) -> {ok, pid()} | {error, term()}.
adopt({local, Name}, Options) -> adopt(Name, Options);
adopt(Name, Options) -> 'Elixir.Leash.Worker':adopt(leash_options:text(Name), converted(Options)).

%% The workers that can be adopted.
-spec detached() -> [map()].
detached() -> 'Elixir.Leash.Worker':detached().

%% Returns what is known about a worker, or `nil` if there is no such worker.
-spec info(worker()) -> #{atom() => term()} | nil.
info(Worker) -> 'Elixir.Leash.Worker':info(Worker).

%% The number of its program; once that has ended, it may belong to another process.
-spec os_pid(worker()) -> pos_integer() | nil.
os_pid(Worker) -> 'Elixir.Leash.Worker':os_pid(Worker).

%% The number of its shim.
-spec shim_pid(worker()) -> pos_integer() | nil.
shim_pid(Worker) -> 'Elixir.Leash.Worker':shim_pid(Worker).

%% Writes to the program's stdin; returns when the kernel has taken everything.
-spec write(worker(), iodata()) ->
    ok | {error, not_piped | epipe | closed | timeout | noproc}.
write(Worker, Data) -> 'Elixir.Leash.Worker':write(Worker, Data).

-spec write(worker(), iodata(), timeout()) ->
    ok | {error, not_piped | epipe | closed | timeout | noproc}.
write(Worker, Data, Timeout) -> 'Elixir.Leash.Worker':write(Worker, Data, Timeout).

%% Ends the program's input after what was written.
-spec close_stdin(worker()) -> ok | {error, not_piped | noproc}.
close_stdin(Worker) -> 'Elixir.Leash.Worker':close_stdin(Worker).

%% Gives the terminal of a worker with `pty` another size.
-spec resize(worker(), 1..65535, 1..65535) -> ok | {error, no_pty | epipe | noproc}.
resize(Worker, Rows, Cols) -> 'Elixir.Leash.Worker':resize(Worker, Rows, Cols).

%% Opens the files anew that stdout => {file, Path, Options} has this VM write.
-spec reopen(worker()) -> ok | {error, not_reopenable | noproc | atom()}.
reopen(Worker) -> 'Elixir.Leash.Worker':reopen(Worker).

%% Runs a command to its end and returns {Output, Status}.
%%
%% What Leash:cmd/3 raises is an error here: enoent, an options_error() and so on.
-spec cmd(text()) -> {term(), status()}.
cmd(Command) -> cmd(Command, []).

-spec cmd(text(), [text()]) -> {term(), status()}.
cmd(Command, Args) -> cmd(Command, Args, []).

-spec cmd(text(), [text()], options()) -> {term(), status()}.
cmd(Command, Args, Options) ->
    {Text, Texts} = {leash_options:text(Command), leash_options:texts(Args)},
    'Elixir.Leash':cmd(Text, Texts, converted(Options)).

%% The output of a command, part by part, and at its end {exit, How}.
%%
%% The result is an Elixir enumerable: 'Elixir.Enum':reduce(Stream, Acc, Fun) runs the command,
%% and reads as fast as Fun takes the parts.
-spec stream(text()) -> term().
stream(Command) -> stream(Command, []).

-spec stream(text(), [text()]) -> term().
stream(Command, Args) -> stream(Command, Args, []).

-spec stream(text(), [text()], options()) -> term().
stream(Command, Args, Options) ->
    {Text, Texts} = {leash_options:text(Command), leash_options:texts(Args)},
    'Elixir.Leash':stream(Text, Texts, converted(Options)).

%% Opens a port like any other, whose program ends with the port.
%%
%% The options are a list: those of erlang:open_port/2 and some of Leash's.
-spec open_port(text()) -> port().
open_port(Command) -> leash:open_port(Command, []).

-spec open_port(text(), [text()]) -> port().
open_port(Command, Args) -> leash:open_port(Command, Args, []).

-spec open_port(text(), [text()], [atom() | {atom(), term()}]) -> port().
open_port(Command, Args, Options) -> 'Elixir.Leash':open_port(Command, Args, Options).

%% The workers of this node, with the processes of their trees and what these use.
-spec list() -> [#{atom() => term()}].
list() -> list([]).

%% The same list; #{usage => false} leaves out the look at /proc.
-spec list(options()) -> [#{atom() => term()}].
list(Options) -> 'Elixir.Leash':list(converted(Options)).

%% Draws the workers of this node as a tree, for people.
-spec tree() -> binary().
tree() -> tree(all).

%% Draws the workers of a group, or the worker with a name, a pid or a number.
-spec tree(term()) -> binary().
tree({local, Name}) -> tree(Name);
tree(Which) -> 'Elixir.Leash':tree(leash_options:text(Which)).

%% One worker as in list/0, with the processes of its tree as `members`, or `nil`.
-spec tree_info(pid() | pos_integer() | term()) -> #{atom() => term()} | nil.
tree_info(Which) -> 'Elixir.Leash.Tree':info(Which).

%% The id of this run.
-spec run_id() -> binary().
run_id() -> 'Elixir.Leash':run_id().

%% Ends what crashed runs of this user left behind, and returns a report: a map, see Leash.Sweep.
-spec sweep() -> {ok, map()} | {error, not_running | term()}.
sweep() -> sweep([]).

-spec sweep(options()) -> {ok, map()} | {error, not_running | term()}.
sweep(Options) -> 'Elixir.Leash':sweep(converted(Options)).

%% Ends what is left of one dead run. A live run is refused with `live`.
-spec kill_run(text()) -> {ok, map()} | {error, atom()}.
kill_run(RunId) -> 'Elixir.Leash':kill_run(leash_options:text(RunId)).

%% What this machine supports.
-spec capabilities() -> map().
capabilities() -> 'Elixir.Leash':capabilities().

%% The report of the sweep at the last start of the application.
%%
%% If the start did not sweep, then it is undefined.
-spec last_sweep() -> map() | undefined.
last_sweep() ->
    case 'Elixir.Leash.Sweep':last() of
        nil -> undefined;
        Report -> Report
    end.

%% Returns one sentence for the reason of an {error, Reason}.
-spec format_error(term()) -> string().
format_error(Reason) ->
    unicode:characters_to_list('Elixir.Leash.Error':format(Reason)).

converted(Options) ->
    case leash_options:to_elixir(Options) of
        {ok, Converted} -> Converted;
        {error, Error} -> erlang:error(Error)
    end.
