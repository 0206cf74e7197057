defmodule Leash.OpenPort.Options do
  # The options of `Leash.open_port/3`: those of `Port.open/2`, which are flags and pairs, and
  # some of a Worker.
  @moduledoc false

  alias Leash.{Executable, Identity, Ladder, OptionsError, Schema, WorkingDirectory}
  alias Leash.Worker

  # Options of the shim, not of the port.
  @shim_flags [:stderr_to_stdout]
  @shim_keys Identity.keys() ++
               [
                 :args,
                 :env,
                 :clear_env,
                 :arg0,
                 :stop,
                 :on_crash,
                 :linger,
                 :limits,
                 :cgroup,
                 :mark,
                 :run_id_flag,
                 :group,
                 :label
               ]

  @flags [
    stream: "Data come as they are; the default.",
    binary: "Data come as binaries instead of lists.",
    exit_status:
      "The owner gets `{port, {:exit_status, status}}` once, when the program and " <>
        "everything that it started are gone.",
    eof: "The owner gets `{port, :eof}` at the end of stdout, and the port stays open.",
    in: "The port only reads; stdin is the VM's.",
    out: "The port only writes; stdout is the VM's.",
    stderr_to_stdout: "Sends stderr where stdout goes.",
    hide: "Accepted for `Port.open/2`'s sake; it means something on Windows only.",
    use_stdio: "Uses stdin and stdout; the default."
  ]

  @worker Worker.Options.schema().options

  @busy_limits [
    type: {:or, [nil, {:in, [:disabled]}, {:custom, __MODULE__, :busy_limits, []}]},
    type_doc: "{low, high} in bytes, or :disabled",
    type_spec: quote(do: tuple() | :disabled)
  ]

  @all [
    args: @worker[:args],
    packet: [
      type: {:in, [nil, 1, 2, 4]},
      type_doc: "1, 2 or 4",
      type_spec: quote(do: 1 | 2 | 4),
      doc: "Bytes of the length in front of each message, in both directions."
    ],
    line: [
      type: {:or, [nil, :pos_integer]},
      type_doc: "a positive number of bytes",
      doc: "Data come as `{:eol, line}` or, if a line is longer, as `{:noeol, part}`."
    ],
    parallelism: [
      type: :boolean,
      default: false,
      doc: "The port's scheduling hint."
    ],
    busy_limits_port: @busy_limits ++ [doc: "When the port counts as busy."],
    busy_limits_msgq: @busy_limits ++ [doc: "When its message queue counts as busy."],
    cd: @worker[:cd],
    env: @worker[:env],
    clear_env: @worker[:clear_env],
    arg0: @worker[:arg0],
    stop: @worker[:stop],
    on_crash: [
      type: {:in, [:kill, :ladder]},
      default: :ladder,
      doc:
        "How the tree is ended if the port's owner crashes or is killed: by the ladder of " <>
          "`:stop`, or by SIGKILL at once. After `:normal`, `:shutdown` and `Port.close/1` " <>
          "the ladder is used."
    ],
    linger: @worker[:linger],
    limits: @worker[:limits],
    cgroup: @worker[:cgroup],
    user: @worker[:user],
    gid: @worker[:gid],
    groups: @worker[:groups],
    no_new_privs: @worker[:no_new_privs],
    capabilities: @worker[:capabilities],
    umask: @worker[:umask],
    mark: @worker[:mark],
    run_id_flag: @worker[:run_id_flag],
    group: @worker[:group],
    label: @worker[:label]
  ]

  @schema Schema.new(Keyword.delete(@all, :args))
  @with_args Schema.new(@all)

  @doc "Returns the flags and their meanings."
  @spec flags() :: [{atom(), String.t()}]
  def flags, do: @flags

  @doc "Returns the options with a value."
  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc false
  @spec busy_limits(term()) :: {:ok, tuple()} | {:error, String.t()}
  def busy_limits({low, high} = limits)
      when is_integer(low) and is_integer(high) and low >= 0 and low <= high,
      do: {:ok, limits}

  def busy_limits(_other), do: {:error, @busy_limits[:type_doc]}

  @doc "Returns all options as a Markdown list."
  @spec docs() :: String.t()
  def docs do
    Enum.map_join(flags(), "\n", fn {flag, doc} -> "  * `#{inspect(flag)}` - #{doc}\n" end) <>
      "\n" <> Schema.docs(schema())
  end

  @doc "Returns the quoted type of one option."
  @spec typespec() :: Macro.t()
  def typespec do
    Enum.reduce(flags(), Schema.typespec(schema()), fn {flag, _doc}, rest ->
      quote(do: unquote(flag) | unquote(rest))
    end)
  end

  @doc """
  Checks everything that can be checked before anything starts.

  The result has the executable's path as `:command`, `:env` in the form of the port driver, and
  as `:port` the options for `Port.open/2`. Raises `Leash.OptionsError`, and what `Port.open/2`
  raises for a program that does not exist.
  """
  @spec validate!(String.t(), [binary()], list()) :: map()
  def validate!(command, args, options) do
    command = text(command)

    if not Schema.text?(command),
      do: Schema.refuse!(:command, "a string without NUL bytes", command)

    if not proper?(options), do: Schema.refuse!(nil, "a list of options of Port.open/2", options)
    options = Enum.map(options, &normal(check!(&1)))
    {flags, pairs} = Enum.split_with(options, &is_atom/1)

    # If an option is given twice, the last one counts, as in Port.open/2.
    with {:ok, checked} <-
           Schema.validate(@with_args, [{:args, texts(args)} | Enum.reverse(pairs)]),
         {:ok, stop} <- Ladder.resolve(checked.stop, checked.cd),
         {:ok, checked} <- checked |> Worker.Options.cleared() |> Worker.Options.identity() do
      Map.merge(checked, %{
        command: Executable.find!(command),
        label: Leash.Text.printable(checked.label || Path.basename(command)),
        env: Enum.map(checked.env, &port_variable/1),
        stop: stop,
        port: Enum.filter(options, &ports?/1),
        stderr: if(:stderr_to_stdout in flags, do: :stdout, else: :inherit),
        reads_only?: :in in flags and :out not in flags
      })
    else
      {:error, error} -> raise error
    end
  end

  defp proper?(options), do: is_list(options) and List.improper?(options) == false

  defp check!(:nouse_stdio) do
    Schema.refuse!(
      :nouse_stdio,
      "not to be given (the program's descriptors 3 and 4 are closed)",
      true
    )
  end

  # The port's driver makes the pipes, and can use nothing else.
  defp check!({:pty, pty}) do
    Schema.refuse!(
      :pty,
      "not to be given (a port has pipes; Leash.Worker, Leash.cmd/3 and the streams have it)",
      pty
    )
  end

  defp check!(:pty), do: check!({:pty, true})

  defp check!({:args, args}),
    do: Schema.refuse!(:args, "the second argument of open_port/3 instead of an option", args)

  defp check!({key, _value} = pair) when is_atom(key) do
    if key in Schema.keys(@schema), do: pair, else: unknown!(key)
  end

  defp check!(flag) do
    if is_atom(flag) and Keyword.has_key?(flags(), flag),
      do: flag,
      else: unknown!(flag)
  end

  @spec unknown!(term()) :: no_return()
  defp unknown!(option),
    do: Schema.unknown!(option, Keyword.keys(flags()) ++ Schema.keys(@schema))

  # Port.open/2 also takes charlists, and has false where a Worker has nil.
  defp normal({:env, env}) when is_list(env),
    do: {:env, if(proper?(env), do: Enum.map(env, &variable/1), else: env)}

  defp normal({key, value}) when key in [:cd, :arg0, :label, :user, :gid], do: {key, text(value)}
  defp normal({key, value}) when key in [:groups, :clear_env], do: {key, texts(value)}
  defp normal(other), do: other

  defp variable({name, false}), do: {text(name), nil}
  defp variable({name, []}), do: {text(name), ""}
  defp variable({name, value}), do: {text(name), text(value)}
  defp variable(other), do: other

  defp texts(args) when is_list(args) do
    # An empty charlist is an argument of no characters.
    if proper?(args), do: Enum.map(args, &if(&1 == [], do: "", else: text(&1))), else: args
  end

  defp texts(args), do: args

  defp text([_ | _] = charlist) do
    List.to_string(charlist)
  rescue
    _no_text -> charlist
  end

  defp text(other), do: other

  # The form of the port driver. An empty charlist unsets (open_port/2). A list that contains one
  # has no characters either, and does not unset.
  defp port_variable({name, nil}), do: {String.to_charlist(name), false}
  defp port_variable({name, ""}), do: {String.to_charlist(name), [[]]}
  defp port_variable({name, value}), do: {String.to_charlist(name), String.to_charlist(value)}

  # In the given order, because the last one of :stream and :packet counts.
  defp ports?({:cd, nil}), do: false
  defp ports?({key, _value}), do: key not in @shim_keys
  defp ports?(flag), do: flag not in @shim_flags

  @doc "Returns what to raise for an error of `Port.open/2`, which does not name a wrong option."
  @spec refused(Exception.t(), map()) :: Exception.t()
  def refused(%ArgumentError{}, %{port: port}),
    do: %OptionsError{expected: "options that go together in Port.open/2", value: port}

  def refused(error, _options) do
    case WorkingDirectory.explain(error) do
      %ErlangError{original: :no_working_directory} ->
        %Leash.Error{reason: {:shim, :no_working_directory}}

      error ->
        error
    end
  end
end
