%% An application in Erlang whose programs end with it: two below its supervisor, one of a handler that talks to it, and a command.
%%
%%     erlc examples/erlang/my_app.erl
%%     erl -noshell -pa . -pa PATH/TO/leash/ebin -pa PATH/TO/elixir/ebin -pa PATH/TO/logger/ebin -s my_app
%%
%% `kill -TERM` to the VM stops the application in order, `kill -KILL` does not: nothing is left of either.
-module(my_app).

-behaviour(application).
-behaviour(supervisor).

-export([start/0, start/2, prep_stop/1, stop/1, init/1]).

%% Each with a child in a session of its own, as programs have them that start servers or browsers.
-define(PROGRAM, "setsid sleep 1000 & echo READY; while read -r line; do echo \"did $line\"; done").

init([]) ->
    Options = #{
        shell => ?PROGRAM,
        stdin => pipe,
        group => ?MODULE,
        env => [{"LANG", "C"}, {"PAGER", false}],
        ready => {regex, "^READY$", "m"},
        stop => [{sigterm, 1000}]
    },
    Children = [
        (leash:child_spec(Options#{name => {local, Name}}))#{restart => transient}
     || Name <- [embedder, indexer]
    ],
    {ok, {#{strategy => one_for_one}, Children}}.

start(_Type, _Arguments) -> supervisor:start_link({local, my_sup}, ?MODULE, []).

%% Before the supervision tree ends.
prep_stop(State) ->
    {ok, Stopped} = leash:stop_all(?MODULE, #{deadline => 3000}),
    io:format("stopped ~b~n", [length(Stopped)]),
    State.

stop(_State) -> ok.

start() ->
    % What rebar3 makes of my_app.app.src.
    ok = application:load(
        {application, my_app, [
            {vsn, "1"},
            {modules, [my_app]},
            {registered, [my_sup]},
            {applications, [kernel, stdlib, leash]},
            {mod, {my_app, []}}
        ]}
    ),
    {ok, _Started} = application:ensure_all_started(my_app),

    % A command, and what is wrong with one.
    {<<"hello\n">>, 0} = leash:cmd("echo", ["hello"], #{timeout => 5000}),
    Error = failure(fun() -> leash:start_link(#{command => "/no/such/program"}) end),
    #{key := command} = Error,
    "invalid value for :command" ++ _ = leash:format_error(Error),

    % A program that answers, and is ended while the others work.
    {ok, Third} = leash:start_link([
        {command, "sh"},
        {args, ["-c", ?PROGRAM]},
        {stdin, pipe},
        {on_output, self()}
    ]),
    ok = leash:write(Third, "a job\n"),
    ok = said(Third, <<"READY\ndid a job\n">>),
    {ok, #{signal := sigterm}} = leash:stop(Third),

    Pids = [leash:os_pid(Name) || Name <- [embedder, indexer]],
    io:format("ready ~b ~b~n", Pids).

said(_Worker, <<>>) ->
    ok;
said(Worker, Expected) ->
    receive
        {leash_output, Worker, stdout, Text} ->
            Size = byte_size(Text),
            <<Text:Size/binary, Rest/binary>> = Expected,
            said(Worker, Rest)
    after 10000 -> {missing, Expected}
    end.

failure(Call) ->
    try Call() of
        Result -> exit({no_failure, Result})
    catch
        error:Error -> Error
    end.
