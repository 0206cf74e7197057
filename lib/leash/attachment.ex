defmodule Leash.Attachment do
  # `Leash.attach/2` ties an OS process that Leash did not start to an owner.
  #
  # A Worker process without a link does the work. Its shim attaches instead of starting a program
  # (`Leash.Attachment.Attached`). This module does what comes before: it finds out which
  # processes the target and the owner are.
  @moduledoc false

  alias Leash.{Ladder, Native, OSProcess, Schema, Worker}

  @start_timeout 10_000

  @options [
    owner: [
      type: {:or, [nil, {:in, [:application]}, {:custom, __MODULE__, :owner, []}]},
      type_doc: "a pid of this node, {:os_pid, handle or number from 2 up} or :application",
      type_spec: quote(do: pid() | {:os_pid, Leash.OSProcess.target()} | :application | nil),
      doc:
        "The end of this process ends the tree. It is a process of this node (by default " <>
          "the calling one), another OS process, or the `:leash` application."
    ],
    group: Leash.Group.option("The group. `Leash.stop_all/2` ends the tree with it."),
    name:
      Keyword.replace!(
        Worker.Options.schema().options[:name],
        :doc,
        "Registers the returned process under this name."
      ),
    stop: Ladder.option(:without_stdin),
    on_crash: [
      type: {:in, [:kill, :ladder]},
      default: :ladder,
      doc:
        "How the tree is ended if its owner, a process of this node, crashes or is killed: " <>
          "by the ladder of `:stop`, or by SIGKILL at once. After `:normal` and `:shutdown`, " <>
          "and for an owner that is another OS process, the ladder is used."
    ],
    linger: [
      type: Schema.milliseconds(),
      default: 200,
      doc:
        "Milliseconds that the rest of the tree gets if its root ends by itself. Then the " <>
          "ladder begins."
    ]
  ]

  @schema Schema.new(@options)

  @type target :: OSProcess.target() | port()

  # Refusals that the shim reports as an errno of its own; PROTOCOL.md, section 7.
  @refusals %{
    einval: {:refused, :ancestor},
    ebusy: {:refused, :marked},
    eloop: {:refused, :no_depth},
    enoent: :no_proc
  }

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc false
  @spec owner(term()) :: {:ok, term()} | {:error, String.t()}
  def owner(owner) do
    if (is_pid(owner) and node(owner) == node()) or
         (match?({:os_pid, _process}, owner) and process?(elem(owner, 1))),
       do: {:ok, owner},
       else: {:error, @options[:owner][:type_doc]}
  end

  defp process?(%OSProcess{}), do: true
  defp process?(pid), do: is_integer(pid) and pid in 2..0x7FFFFFFF

  @doc "See `Leash.attach/2`."
  @spec start(target(), keyword() | map()) ::
          {:ok, pid()} | {:error, term()}
  def start(target, options) do
    options = Schema.unwrap!(Schema.validate(@schema, options))
    options = %{options | stop: Schema.unwrap!(Ladder.resolve(options.stop, nil))}
    check_target!(target)

    with {:ok, owner} <- identify_owner(options.owner || self()),
         {:ok, process} <- identify(target),
         {:ok, option} <-
           Native.attach_option(process.pid, process.start_ticks, process.pidfs_inode) do
      %{process: process, option: option, owner: owner}
      |> worker_options(options)
      |> Worker.Server.start_attached()
      |> outcome()
    end
  end

  defp check_target!(target) do
    if not (process?(target) or is_port(target)) do
      expected = "a Leash.OSProcess handle, a process number from 2 up, or a port"
      Schema.refuse!(:target, expected, target)
    end
  end

  defp identify_owner({:os_pid, process}) do
    case OSProcess.identify(process) do
      {:ok, process} -> {:ok, {:os_pid, process}}
      {:error, :esrch} -> {:error, :noproc}
      {:error, reason} -> {:error, {:owner, reason}}
    end
  end

  defp identify_owner(owner), do: {:ok, owner}

  defp identify(port) when is_port(port) do
    with {:os_pid, pid} <- Port.info(port, :os_pid),
         {:ok, process} <- OSProcess.identify(pid),
         true <- started_here?(process) do
      {:ok, process}
    else
      {:error, reason} -> {:error, reason}
      # The port is closed, or its program has ended and another process has the number.
      _nobody -> {:error, :esrch}
    end
  end

  defp identify(process), do: OSProcess.identify(process)

  # A port's program is a child of the VM's fork server.
  defp started_here?(process) do
    with {:ok, %{ppid: server}} when server != nil <- OSProcess.info(process),
         {:ok, %{ppid: vm}} <- if(server > 1, do: OSProcess.info(server), else: :error) do
      vm == String.to_integer(System.pid())
    else
      _gone -> false
    end
  end

  defp worker_options(attach, options) do
    {command, args} = command(attach.process)

    Map.merge(options, %{
      attach: attach,
      command: command,
      args: args,
      env: [],
      stdin: :null,
      stdout: :null,
      stderr: :null,
      on_exit: :stop,
      ready: nil,
      ready_timeout: @start_timeout,
      start_timeout: @start_timeout,
      run_id_flag: nil,
      exit_reason: nil
    })
  end

  defp command(process) do
    case OSProcess.info(process) do
      {:ok, %{args: [command | args]}} when command != "" -> {command, args}
      {:ok, %{command: name}} -> {name, []}
      {:error, _gone} -> {"#{process.pid}", []}
    end
  end

  defp outcome({:error, {:attach, reason}}), do: {:error, Map.get(@refusals, reason, reason)}
  # The owner ended during the start, and the attached tree with it.
  defp outcome({:error, :normal}), do: {:error, :noproc}
  defp outcome(other), do: other
end
