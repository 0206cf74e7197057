defmodule Leash.Worker.Options do
  # What `Leash.Worker.start_link/1` accepts, in one place: types, defaults, documentation, and the
  # checks that need the machine (is the executable there, can the directory be entered).
  @moduledoc false

  alias Leash.{Executable, Guard, Ladder, Limits, OptionsError, Schema}
  alias Leash.Probe.{HTTP, Health, Readiness}

  # execve(2): one argument or variable holds at most 32 pages (MAX_ARG_STRLEN), its NUL included.
  @longest_argument 131_071

  @options [
    command: [
      type: Schema.optional_text(),
      doc: "The program: a name to look up in `PATH`, or a path."
    ],
    args: [
      type:
        Schema.custom(
          &__MODULE__.arguments?/1,
          "a list of strings without NUL bytes",
          quote(do: [binary()])
        ),
      default: [],
      doc: "Its arguments; any bytes but NUL."
    ],
    shell: [
      type: Schema.optional_text(),
      doc: "Instead of `:command`: a line for `/bin/sh -c`, such as `\"producer | consumer\"`."
    ],
    name: [
      type:
        Schema.custom(
          &__MODULE__.name?/1,
          "a name as GenServer accepts it",
          quote(do: GenServer.name())
        ),
      doc: "Registers the process under this name."
    ],
    group: [type: Leash.Group.option(), doc: "The group that `Leash.stop_all/2` ends it with."],
    env: [
      type:
        Schema.custom(
          &__MODULE__.env?/1,
          "pairs of a name (no \"=\", no NUL, not LEASH_RUN) and a UTF-8 string or nil",
          quote(
            do: %{optional(String.t()) => String.t() | nil} | [{String.t(), String.t() | nil}]
          )
        ),
      default: [],
      doc:
        "Variables to set, or with `nil` to unset, on top of the VM's environment. An empty string is an empty value."
    ],
    cd: [type: Schema.optional_text(), doc: "The working directory."],
    arg0: [
      type: Schema.optional_text(),
      doc: "What the program sees as its own name, instead of its path."
    ],
    stdin: [
      type: Schema.one_of([:null, :open, :pipe]),
      default: :null,
      doc:
        "`:pipe` makes `write/3` and `close_stdin/1` work; `:null` is an empty input; `:open` is an input that neither ends nor brings " <>
          "anything while the VM lives, for programs that take its end for the word to stop (esbuild, tailwindcss and vite with `--watch`)."
    ],
    stdout: [
      type: Schema.target([:output, :null]),
      default: :output,
      doc:
        "`:output` goes to `:on_output`, `:null` to nowhere, `{:file, path}` is appended to by the program itself."
    ],
    stderr: [
      type: Schema.target([:output, :null, :stdout]),
      default: :output,
      doc: "As `:stdout`; `:stdout` here means the same place as stdout."
    ],
    on_output: [
      type:
        Schema.custom(
          &__MODULE__.on_output?/1,
          ":log, a pid or a function of two arguments",
          quote(do: :log | pid() | (:stdout | :stderr, binary() -> term()))
        ),
      default: :log,
      doc:
        "Who gets output: `:log` writes lines with `Logger` (stdout at level info, stderr at warning), " <>
          "a pid gets `{:leash_output, worker, :stdout | :stderr, binary}`, " <>
          "a function is called with stream and binary in a process of its own, " <>
          "and while it does not return nothing more is read."
    ],
    on_stderr: [
      type:
        Schema.custom(
          &__MODULE__.on_stderr?/1,
          ":log, a pid or a function of two arguments",
          quote(do: :log | pid() | (:stdout | :stderr, binary() -> term()) | nil)
        ),
      doc: "Who gets stderr, where that is not what `:on_output` says."
    ],
    output_window: [
      type:
        Schema.custom(
          &__MODULE__.output_window?/1,
          "a positive number of messages",
          quote(do: pos_integer())
        ),
      default: 256,
      doc:
        "While the mailbox of a pid that gets output holds more messages than this, of whatever sender, nothing is read for it " <>
          "(a message holds at most 64 KiB): the pipe fills and holds the program back. Messages that stay unread while those of the " <>
          "program are taken do not count. Not before `:ready`, because the pid may be " <>
          "waiting for just that; and not for a pid of another node, whose mailbox cannot be measured: there the connection's own " <>
          "buffer holds back."
    ],
    stop: Ladder.option(),
    linger: [
      type: Schema.milliseconds(),
      default: 200,
      doc:
        "Milliseconds that the children of a worker which exited by itself get to end, before the ladder."
    ],
    limits: [
      type: Schema.custom(&Limits.valid?/1, Limits.expected(), quote(do: Leash.Limits.t())),
      default: [],
      doc: "What the kernel limits the program to, see `Leash.Limits`."
    ],
    on_exit: [
      type: Schema.one_of([:stop, :keep, :detach]),
      default: :stop,
      doc:
        "What becomes of processes that a program leaves which exits by itself: they are stopped, or with `:keep` " <>
          "go on, and no sweep ends them. Every other end of the program is the end of all of them. Needs `:mark`; where " <>
          "not all of them can be marked as kept, they are stopped. With `:detach` the program itself goes on when this process, its " <>
          "supervisor, the application or the VM ends, in whatever way, see \"A worker that outlives its VM\"."
    ],
    on_crash: [
      type: Schema.one_of([:kill, :ladder]),
      default: :kill,
      doc:
        "How hard the tree is ended when its owner or this process crashes or is killed: by " <>
          "SIGKILL at once, or by the ladder of `:stop`, for a program that must not leave half " <>
          "of its work. After `:normal` and `:shutdown` it is the ladder."
    ],
    ready: [
      type:
        Schema.custom(
          &__MODULE__.ready?/1,
          "a regex for a line of stdout, {:tcp, port}, {:http, target} (#{HTTP.expected()}), or a function of no or one argument",
          quote(
            do:
              Regex.t()
              | {:tcp, :inet.port_number()}
              | {:http, unquote(HTTP.typespec())}
              | (() -> term())
              | (map() -> term())
              | nil
          )
        ),
      doc:
        "`start_link/1` returns when a line of stdout matches, when the port accepts a connection on 127.0.0.1 or ::1, when GET is answered " <>
          "with 200, or when the function (called every 50 ms in a process of its own, with what `info/1` says where it takes an argument) " <>
          "returns `true`, `:ok` or `{:ok, term}`; one that raises is asked again. A port of this machine where somebody answers already is " <>
          "`{:error, {:port_in_use, port}}`. " <>
          "A regex with the modifier `u` sees U+FFFD for each byte that is no UTF-8."
    ],
    ready_timeout: [
      type: Schema.milliseconds(),
      default: 30_000,
      doc: "Milliseconds until a worker that is not ready is ended: `{:error, :ready_timeout}`."
    ],
    start_timeout: [
      type: Schema.milliseconds(),
      default: 10_000,
      doc:
        "Milliseconds until a program whose exec does not return (a file system that hangs) is given up: `{:error, :start_timeout}`."
    ],
    health: [
      type:
        Schema.custom(&Health.valid?/1, Health.expected(), quote(do: unquote(Health.typespec()))),
      doc:
        "Once it is ready, asks `:check` every `:every` (5_000) milliseconds; what is not answered within `:timeout` (1_000) or not well " <>
          "`:failures` (3) times in a row ends the worker by its ladder, and this process exits with `{:unhealthy, reason}`. A port is " <>
          "well when it accepts a connection, a URL when GET is answered with 200, a function when it returns `true`, `:ok` or `{:ok, term}`."
    ],
    guard: [
      type:
        Schema.custom(
          &Guard.Options.valid?/1,
          Guard.Options.expected(),
          quote(do: unquote(Guard.Options.typespec()))
        ),
      doc:
        "Limits of the whole tree, looked at every `:every` (1_000) milliseconds: more than so many `:processes`, more memory than `:rss`, " <>
          "`:lifetime` since the start, `:idle` (no output seen by this process, and no CPU time used). `:action` `:stop` (default) ends the worker by " <>
          "its ladder, and this process exits with `{:guard, %{limit: limit, max: number, value: number}}`; `:log` writes a warning, a " <>
          "function is called with a map, once until the value is within the limit again. See `guides/pools.md`."
    ],
    run_id_flag: [
      type: Schema.optional_text(),
      doc:
        "A flag, such as `\"--run-id\"`, that is appended to the arguments with the run's id as its value."
    ],
    exit_reason: [
      type:
        Schema.custom(
          &__MODULE__.exit_reason?/1,
          "a function of one argument",
          quote(do: (Leash.Exit.t() -> term()) | nil)
        ),
      doc:
        "Maps the `Leash.Exit` of a worker that ended by itself to this process's exit reason; default `Leash.Exit.reason/1`, " <>
          "also if the function fails or takes more than 1,000 ms."
    ],
    mark: [
      type: Schema.boolean(),
      default: true,
      doc:
        "`false` leaves `RLIMIT_LOCKS` alone. If the warden is killed with VM and shim, or the program is a port's, then the " <>
          "environment alone tells what is left: children that drop it are not found."
    ]
  ]

  @schema Schema.new(@options)

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc false
  @spec arguments?(term()) :: boolean()
  def arguments?(args) do
    is_list(args) and
      Enum.all?(args, &(is_binary(&1) and :binary.match(&1, <<0>>) == :nomatch))
  end

  @doc false
  @spec name?(term()) :: boolean()
  def name?(nil), do: true
  def name?(name) when is_atom(name), do: true
  def name?({:global, _term}), do: true
  def name?({:via, module, _term}), do: is_atom(module)
  def name?(_other), do: false

  @doc false
  @spec env?(term()) :: boolean()
  def env?(env) when is_map(env) and not is_struct(env), do: env?(Map.to_list(env))
  def env?(env), do: is_list(env) and Enum.all?(env, &variable?/1)

  defp variable?({name, value}) do
    Schema.text?(name) and String.valid?(name) and name != "LEASH_RUN" and
      :binary.match(name, "=") == :nomatch and
      (value == nil or value == "" or (Schema.text?(value) and String.valid?(value)))
  end

  defp variable?(_other), do: false

  @doc false
  @spec on_output?(term()) :: boolean()
  def on_output?(:log), do: true
  def on_output?(pid) when is_pid(pid), do: true
  def on_output?(fun), do: is_function(fun, 2)

  @doc false
  @spec on_stderr?(term()) :: boolean()
  def on_stderr?(value), do: value == nil or on_output?(value)

  @doc false
  @spec output_window?(term()) :: boolean()
  def output_window?(value), do: is_integer(value) and value > 0

  @doc false
  @spec ready?(term()) :: boolean()
  def ready?(nil), do: true
  def ready?(ready), do: is_struct(ready, Regex) or Readiness.valid?(ready)

  @doc false
  @spec exit_reason?(term()) :: boolean()
  def exit_reason?(value), do: value == nil or is_function(value, 1)

  @doc """
  Checks everything that can be checked before anything starts.

  The result has the executable's path as `:command`, and `:env` as a list.
  """
  @spec validate(keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def validate(options) do
    with {:ok, options} <- check(options),
         :ok <- stdin_to_close(options),
         {:ok, executable} <- executable(options.command, options.cd) do
      {:ok, %{options | command: executable}}
    end
  end

  @doc "Like `validate/1` without a look at the program, for who has looked himself."
  @spec check(keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def check(options) do
    with {:ok, options} <- Schema.validate(@schema, options),
         {:ok, options} <- command(options),
         :ok <- marked_if_kept(options),
         :ok <- detachable(options),
         :ok <- readable_ready(options),
         :ok <- directory(options.cd),
         {:ok, stop} <- Ladder.resolve(options.stop, options.cd),
         :ok <- parent_directory(:stdout, options.stdout),
         :ok <- parent_directory(:stderr, options.stderr),
         :ok <- lengths(options.args) do
      {:ok, %{options | env: Enum.to_list(options.env), stop: stop}}
    end
  end

  defp stdin_to_close(%{stdin: stdin}) when stdin in [:pipe, :open], do: :ok

  defp stdin_to_close(%{stdin: stdin, stop: stop}) do
    if Ladder.closes_stdin?(stop),
      do: Schema.error(:stdin, ":pipe or :open beside {:close_stdin, _} in :stop", stdin),
      else: :ok
  end

  defp command(%{command: nil, shell: nil}),
    do: Schema.error(:command, "a string without NUL bytes (:command or :shell is required)", nil)

  defp command(%{command: nil, shell: line, args: []} = options),
    do: {:ok, %{options | command: "/bin/sh", args: ["-c", line]}}

  defp command(%{command: nil, args: args}),
    do: Schema.error(:args, "no arguments beside :shell, which is a whole command line", args)

  defp command(%{shell: nil} = options), do: {:ok, options}

  defp command(%{shell: line}),
    do: Schema.error(:shell, "nothing beside :command (one of the two)", line)

  # Without a mark that says so, a later run would end them.
  defp detachable(%{on_exit: :detach} = options), do: Leash.Detached.check(options)
  defp detachable(_options), do: :ok

  defp marked_if_kept(%{on_exit: :keep, mark: false}),
    do: Schema.error(:mark, "true beside on_exit: :keep", false)

  defp marked_if_kept(_options), do: :ok

  # A line that can never come would be waited for until the timeout.
  defp readable_ready(%{ready: ready, stdout: stdout})
       when is_struct(ready, Regex) and stdout != :output,
       do: Schema.error(:stdout, ":output, because :ready waits for a line of it", stdout)

  defp readable_ready(_options), do: :ok

  defp directory(nil), do: :ok

  defp directory(path) do
    case File.stat(path) do
      {:ok, %{type: :directory}} ->
        if enterable?(path),
          do: :ok,
          else: Schema.error(:cd, "a directory that can be entered (eacces)", path)

      {:ok, %{type: type}} ->
        Schema.error(:cd, "a directory (it is a #{type})", path)

      {:error, reason} ->
        Schema.error(:cd, "a directory that can be entered (#{reason})", path)
    end
  end

  # Only the kernel knows whether a directory may be entered (ids, capabilities, ACLs); looking up
  # "." in it asks exactly that.
  defp enterable?(path), do: match?({:ok, _}, File.stat(Path.join(path, ".")))

  defp parent_directory(key, {:file, path}) do
    parent = Path.dirname(path)

    cond do
      File.dir?(path) ->
        Schema.error(key, "a file to append to (it is a directory)", {:file, path})

      File.dir?(parent) ->
        :ok

      true ->
        Schema.error(key, "a file in a directory that exists", {:file, path})
    end
  end

  defp parent_directory(_key, _target), do: :ok

  defp executable(command, cd) do
    case Executable.find(command, cd) do
      {:ok, path} ->
        {:ok, path}

      {:error, :not_in_path} ->
        Schema.error(:command, "an executable in PATH (enoent)", command)

      {:error, :no_working_directory} ->
        Schema.error(
          :command,
          "an absolute path (the VM's working directory was deleted)",
          command
        )

      {:error, {:type, type}} ->
        Schema.error(:command, "an executable file (it is a #{type})", command)

      {:error, {:errno, number}} ->
        Schema.error(:command, "an executable file (errno #{number})", command)

      {:error, reason} ->
        Schema.error(:command, "an executable file (#{reason})", command)
    end
  end

  defp lengths(args) do
    case Enum.find(args, &(byte_size(&1) > @longest_argument)) do
      nil ->
        :ok

      long ->
        Schema.error(:args, "arguments of at most #{@longest_argument} bytes", shorten(long))
    end
  end

  defp shorten(long), do: binary_part(long, 0, 40) <> "… (#{byte_size(long)} bytes)"
end
