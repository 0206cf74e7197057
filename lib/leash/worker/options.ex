defmodule Leash.Worker.Options do
  # The options of `Leash.Worker.start_link/1` in one place: types, defaults and documentation.
  # Also the checks that need the machine (is the executable there, can the directory be entered).
  @moduledoc false

  alias Leash.{Cgroup, Environment, Executable, Group, Guard, Identity, Ladder, Limits}
  alias Leash.{OptionsError, Pty, Schema, Suggestion}
  alias Leash.Probe.{Health, Readiness, WaitFor}
  alias Leash.Stdio.{FileOptions, Lines, Receiver}
  alias Leash.Worker.RestartDelay

  # execve(2): one argument or variable holds at most 32 pages (MAX_ARG_STRLEN), its NUL included.
  @longest_argument 131_071

  @text {:or, [nil, {:custom, Schema, :text, []}]}

  @identity Identity.options()

  @options [
    command: [
      type: @text,
      doc: "The program: a name to look up in `PATH`, or a path."
    ],
    args: [
      type: {:custom, __MODULE__, :arguments, []},
      type_doc: "a list of strings without NUL bytes",
      type_spec: quote(do: [binary()]),
      default: [],
      doc: "The arguments of the program. They may hold any bytes but NUL."
    ],
    shell: [
      type: @text,
      doc: "A line, instead of `:command`, for `/bin/sh -c`, such as `\"producer | consumer\"`."
    ],
    name: [
      type: {:custom, __MODULE__, :name, []},
      type_doc: "a name as GenServer accepts it",
      type_spec: quote(do: GenServer.name()),
      doc: "Registers the process under this name."
    ],
    label: [
      type: @text,
      doc:
        "The name for people, in the log, in `Leash.list/1` and in `Leash.tree/1`. The " <>
          "default is `:name`, or the name of the program's file."
    ],
    group: Group.option("The group that `Leash.stop_all/2` ends it with."),
    env: Environment.Options.env(),
    clear_env: Environment.Options.clear_env(),
    cd: [type: @text, doc: "The working directory."],
    arg0: [
      type: @text,
      doc: "The name that the program sees as its own, instead of its path."
    ],
    stdin: [
      type: {:in, [:null, :open, :pipe]},
      default: :null,
      doc:
        "`:pipe` makes `write/3` and `close_stdin/1` work. `:null` is an empty input. " <>
          "`:open` is an input that stays open and empty while the VM lives. It is for " <>
          "programs that stop at the end of their input (esbuild, tailwindcss and vite with " <>
          "`--watch`)."
    ],
    stdout: [
      type:
        {:or,
         [{:custom, Schema, :target, [[:output, :null]]}, {:custom, FileOptions, :check, []}]},
      type_doc: ":output, :null, {:file, path} or {:file, path, options}",
      type_spec: quote(do: :output | :null | {:file, Path.t()} | unquote(FileOptions.typespec())),
      default: :output,
      doc:
        "`:output` goes to `:on_output`, `:null` to nowhere. The program itself appends to " <>
          "`{:file, path}`. With `{:file, path, rotate: [size: \"10MB\", keep: 5]}` this VM " <>
          "writes the file, begins a new one at that size, and keeps so many older ones."
    ],
    stderr: [
      type:
        {:or,
         [
           {:custom, Schema, :target, [[:output, :null, :stdout]]},
           {:custom, FileOptions, :check, []}
         ]},
      type_doc: ":output, :null, :stdout, {:file, path} or {:file, path, options}",
      type_spec:
        quote do
          :output | :null | :stdout | {:file, Path.t()} | unquote(FileOptions.typespec())
        end,
      default: :output,
      doc: "As `:stdout`. `:stdout` here means the same place as stdout."
    ],
    pty: Pty.option(),
    on_output: [
      type: {:or, Receiver.types()},
      type_doc: Receiver.expected(),
      type_spec: Receiver.typespec(),
      default: :log,
      doc:
        "The receiver of output. `:log` writes lines with `Logger` (stdout at level info, " <>
          "stderr at warning), `{:log, options}` as the options say (`:level`, `:stderr`, " <>
          "`:prefix` and `:metadata`, see `guides/workers.md`). A pid gets " <>
          "`{:leash_output, worker, :stdout | :stderr, binary}`. A function is called with " <>
          "stream and binary in a process of its own; until it returns, nothing more is read. " <>
          "`{:into, collectable}` puts it into a Collectable, such as `File.stream!/1` or " <>
          "`IO.stream/0`, which is opened at each start and done at the end of the output. " <>
          "If stderr comes here as well, then both go into one Collectable."
    ],
    on_stderr: [
      type: {:or, [nil | Receiver.types()]},
      type_doc: Receiver.expected(),
      type_spec: quote(do: unquote(Receiver.typespec()) | nil),
      doc: "The receiver of stderr, if that differs from `:on_output`."
    ],
    output_window: [
      type: :pos_integer,
      type_doc: "a positive number of messages",
      default: 256,
      doc:
        "The most messages that may wait in the mailbox of a pid that gets output, from any " <>
          "sender. If the mailbox holds more, then nothing is read for the pid (a message " <>
          "holds at most 64 KiB). So the pipe fills and holds the program back. Messages that " <>
          "stay unread while the pid takes those of the program do not count. The window does " <>
          "not apply before `:ready`, because the pid may be waiting for just that. It does " <>
          "not apply to a pid of another node, whose mailbox cannot be measured. There the " <>
          "connection's own buffer holds the program back."
    ],
    lines:
      Lines.option(
        "Makes each message to a pid, each call of a function, and each element of a " <>
          "Collectable a line of the output. `:output_window` counts these messages. `:log` " <>
          "has lines in any case."
      ),
    stop: Ladder.option(),
    linger: [
      type: Schema.milliseconds(),
      default: 200,
      doc:
        "Milliseconds that its children get to end by themselves after a worker exits by " <>
          "itself. Then the ladder begins."
    ],
    limits: Limits.option(),
    cgroup: Cgroup.option(),
    user: @identity[:user],
    gid: @identity[:gid],
    groups: @identity[:groups],
    no_new_privs: @identity[:no_new_privs],
    capabilities: @identity[:capabilities],
    umask: @identity[:umask],
    on_exit: [
      type: {:in, [:stop, :keep, :detach]},
      default: :stop,
      doc:
        "The end of processes that are left when a program exits by itself: with `:stop` " <>
          "they are stopped. With `:keep` they go on, and no sweep ends them. Any other end " <>
          "of the program ends all of them. `:keep` needs `:mark`. If not all of them can be " <>
          "marked as kept, then they are stopped. With `:detach` the program itself goes on " <>
          "when this process, its supervisor, the application or the VM ends, in any way. See " <>
          "\"A worker that outlives its VM\"."
    ],
    on_crash: [
      type: {:in, [:kill, :ladder]},
      default: :kill,
      doc:
        "The way to end the tree if its owner or this process crashes or is killed. `:kill` " <>
          "is SIGKILL at once. `:ladder` is the ladder of `:stop`, for a program that must " <>
          "not leave half of its work. After `:normal` and `:shutdown` it is always the " <>
          "ladder."
    ],
    wait_for: [
      type: {:or, [nil, {:custom, WaitFor, :check, []}]},
      type_doc: WaitFor.expected(),
      type_spec: quote(do: unquote(WaitFor.typespec()) | nil),
      doc:
        "What the program needs. Nothing is started before each of these was there once, in " <>
          "this order: a port or Unix socket that accepts a connection, GET that is answered " <>
          "with 200 to 299, a file that exists, a function that returns `true`, `:ok` or " <>
          "`{:ok, term}`. A stop and a shutdown of the application end the wait."
    ],
    wait_timeout: [
      type: Schema.milliseconds(),
      default: 30_000,
      doc:
        "Milliseconds until `{:error, {:wait_timeout, what}}`, with the first that was not " <>
          "there."
    ],
    ready: [
      type: {:or, [nil, {:custom, Readiness, :check, []}]},
      type_doc: Readiness.expected(),
      type_spec: quote(do: unquote(Readiness.typespec()) | nil),
      doc:
        "The condition under which `start_link/1` returns. A line of stdout matches, or the " <>
          "port or Unix socket accepts a connection (a port without a host on 127.0.0.1 or " <>
          "::1). Or GET is answered with 200 to 299, or the " <>
          "function returns `true`, `:ok` or `{:ok, term}`. The function is called every 50 " <>
          "ms in a process of its own. If it takes an argument, then it gets the result of " <>
          "`info/1`. If it raises, then it is called again. If another process already " <>
          "listens there on this machine, then the start fails with " <>
          "`{:error, {:port_in_use, port}}`. A regex with the modifier `u` sees U+FFFD for " <>
          "each byte that is no UTF-8."
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
        "Milliseconds until a program whose exec does not return (a file system that hangs) " <>
          "is given up: `{:error, :start_timeout}`."
    ],
    restart_delay: RestartDelay.option(),
    health: Health.option(),
    guard: Guard.Options.option(),
    run_id_flag: [
      type: @text,
      doc:
        "A flag, such as `\"--run-id\"`. It is appended to the arguments, with the run's id " <>
          "as its value."
    ],
    exit_reason: [
      type: {:or, [nil, {:fun, 1}]},
      type_spec: quote(do: (Leash.Exit.t() -> term()) | nil),
      doc:
        "Maps the `Leash.Exit` of a worker that ended by itself to this process's exit " <>
          "reason. The default is `Leash.Exit.reason/1`, also if the function fails or takes " <>
          "more than 1,000 ms."
    ],
    mark: [
      type: :boolean,
      default: true,
      doc:
        "`false` leaves `RLIMIT_LOCKS` alone. Then, if the warden is killed with VM and " <>
          "shim, or the program is a port's, only the environment identifies what is left. " <>
          "Children that drop it are not found."
    ]
  ]

  @schema Schema.new(@options)

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc false
  @spec arguments(term()) :: {:ok, [binary()]} | {:error, String.t()}
  def arguments(args) do
    if arguments?(args),
      do: {:ok, args},
      else: {:error, @options[:args][:type_doc]}
  end

  defp arguments?([argument | rest]) when is_binary(argument),
    do: :binary.match(argument, <<0>>) == :nomatch and arguments?(rest)

  defp arguments?(rest), do: rest == []

  @doc false
  @spec name(term()) :: {:ok, GenServer.name() | nil} | {:error, String.t()}
  def name(name),
    do: if(name?(name), do: {:ok, name}, else: {:error, @options[:name][:type_doc]})

  @doc false
  @spec name?(term()) :: boolean()
  def name?(name) when is_atom(name), do: true
  def name?({:global, _term}), do: true
  def name?({:via, module, _term}), do: is_atom(module)
  def name?(_other), do: false

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

  @doc "Like `validate/1`, for callers that have already looked for the program."
  @spec check(keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def check(given) do
    with {:ok, options} <- Schema.validate(@schema, given),
         {:ok, options} <- command(options),
         {:ok, options} <- options |> cleared() |> terminal(given),
         :ok <- marked_if_kept(options),
         :ok <- detachable(options),
         :ok <- limited(options, given),
         :ok <- delayed(options, given),
         :ok <- directory(options.cd),
         {:ok, options} <- files(options),
         :ok <- readable_ready(options),
         {:ok, stop} <- Ladder.resolve(options.stop, options.cd),
         :ok <- parent_directory(:stdout, options.stdout),
         :ok <- parent_directory(:stderr, options.stderr),
         :ok <- lengths(options.args),
         {:ok, options} <- identity(options) do
      {:ok, %{options | stop: stop}}
    end
  end

  @doc "Finds the ids of the names of users and groups, if there are any."
  @spec identity(map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def identity(
        %{user: nil, gid: nil, groups: nil, capabilities: nil, umask: nil, no_new_privs: false} =
          options
      ),
      do: {:ok, options}

  def identity(options), do: Identity.resolve(options)

  @doc "Returns the options with a list as `:env`."
  @spec cleared(map()) :: map()
  def cleared(%{env: :clear} = options),
    do: %{options | env: [], clear_env: options.clear_env || true}

  def cleared(options), do: options

  defp stdin_to_close(%{stdin: stdin}) when stdin in [:pipe, :open, :pty], do: :ok

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

  defp terminal(%{pty: nothing} = options, _given) when nothing in [nil, false],
    do: {:ok, %{options | pty: nil}}

  defp terminal(options, given), do: Pty.put(options, given)

  defp delayed(%{restart_delay: nil}, _given), do: :ok
  defp delayed(options, given), do: RestartDelay.check(options, given)

  defp detachable(%{on_exit: :detach} = options), do: Leash.Detached.check(options)
  defp detachable(_options), do: :ok

  defp limited(%{guard: nil}, _given), do: :ok

  defp limited(%{guard: guard}, given) do
    if Guard.Options.limited?(guard),
      do: :ok,
      else: Schema.error(:guard, @options[:guard][:type_doc], given[:guard])
  end

  # A later run ends processes that have no mark to keep them.
  defp marked_if_kept(%{on_exit: :keep, mark: false}),
    do: Schema.error(:mark, "true beside on_exit: :keep", false)

  defp marked_if_kept(_options), do: :ok

  defp files(%{stdout: {:file, _path, _rotate}} = options), do: FileOptions.take(options)
  defp files(%{stderr: {:file, _path, _rotate}} = options), do: FileOptions.take(options)
  defp files(options), do: {:ok, options}

  # If stdout goes elsewhere, then its line never comes, and the start waits for the timeout.
  defp readable_ready(%{ready: ready, stdout: stdout})
       when is_struct(ready, Regex) and stdout not in [:output, :pty],
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

  # Only the kernel knows whether a directory may be entered (ids, capabilities, ACLs). A lookup
  # of "." in it asks the kernel.
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
        Schema.error(:command, "an executable in PATH (enoent)", command, line(command))

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
        hint = hint(reason, command, cd)
        Schema.error(:command, "an executable file (#{reason})", command, hint)
    end
  end

  defp hint(:enoent, "~" <> _path, _cd), do: Suggestion.tilde()
  defp hint(:enoent, "/" <> _path = command, _cd), do: line(command)

  # In a release the VM's directory is another one.
  defp hint(:enoent, command, cd) do
    line(command) ||
      "it starts at #{Path.expand(cd || ".")}; Application.app_dir(:my_app, " <>
        "#{inspect(command)}) has a path that holds in a release"
  end

  defp hint(:eacces, command, _cd),
    do: "chmod +x #{command}, or name its interpreter as :command and it in :args"

  defp hint(_reason, _command, _cd), do: nil

  defp line(command) do
    with {program, args} <- Executable.words(command) do
      "arguments go to args: `command: #{inspect(program)}, args: #{inspect(args)}`, and a " <>
        "line for sh to shell:"
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
