defmodule Leash.Cluster do
  @moduledoc """
  Calls `Leash.list/0`, `Leash.sweep/1` or `Leash.stop_all/2` on every node of a cluster at once.

      iex> Leash.Cluster.stop_all(MyApp.Pool, deadline: 8_000)
      %{
        "a@10.0.0.1": {:ok, [%{worker: 1, result: {:ok, %Leash.Exit{}}, …}]},
        "b@10.0.0.2": {:error, :timeout}
      }

  The nodes are asked in parallel through `:erpc`, each by a process of its own. So a node that
  does not answer, or to which no connection comes about, does not delay the others. The answer
  arrives after `:timeout` milliseconds at the latest. It **names every node that was asked**,
  with the result of the function there or the reason why there is no answer:

    * `{:error, :timeout}` - the node did not answer in time: it is stopped, overloaded, or
      behind a network that swallows packets
    * `{:error, :noconnection}` - there is no connection to the node, or it was lost
    * `{:error, :not_running}` - the `:leash` application is not started there
    * `{:error, :undef}` - the node has no Leash, or one without this module
    * `{:error, {:exception | :exit | :throw, reason}}` - the function failed there

  A question that was sent is not taken back. A node that did not answer in time may have received
  it. Then `stop_all/2` and `sweep/1` go on there, or begin there when the node is continued. The
  same holds if the caller is killed.

  This node and `Node.list/0` are asked, unless `:nodes` says otherwise. `Node.list/0` does not
  contain hidden nodes.
  """

  alias Leash.{Group, Run, Schema, StopAll, Sweep}

  # Added to a deadline: stop_all/2 takes four seconds more if something is stuck.
  @slack_ms 5_000

  @nodes [
    type: {:or, [nil, {:custom, __MODULE__, :nodes, []}]},
    type_doc: "a list of nodes",
    type_spec: quote(do: [node()] | nil),
    doc: "The nodes that are asked; this one and `Node.list/0` by default."
  ]

  @list Schema.new(
          nodes: @nodes,
          timeout: [
            type: Schema.milliseconds(),
            default: 5_000,
            doc: "Milliseconds until a node that has not answered is given up."
          ]
        )

  # No default, which would be a fixed number. The value depends on the deadline.
  @after_deadline [
    type: {:or, [nil, Schema.milliseconds()]},
    doc:
      "Milliseconds until a node that has not answered is given up; by default `:deadline` " <>
        "and #{div(@slack_ms, 1_000)} s."
  ]

  @sweep Schema.new([nodes: @nodes, timeout: @after_deadline] ++ Sweep.schema().options)
  @stop_all Schema.new([nodes: @nodes, timeout: @after_deadline] ++ StopAll.schema().options)

  @typedoc "The reason why there is no answer of a node."
  @type failure ::
          :timeout
          | :noconnection
          | :not_running
          | :undef
          | {:exception | :exit | :throw, term()}

  @typedoc "An option of `list/1`."
  @type list_option :: unquote(Schema.typespec(@list))

  @typedoc "An option of `sweep/1`."
  @type sweep_option :: unquote(Schema.typespec(@sweep))

  @typedoc "An option of `stop_all/2`."
  @type stop_all_option :: unquote(Schema.typespec(@stop_all))

  @doc """
  Returns the workers of every node, as `Leash.list/0` does.

  The pids are those of the other nodes' processes. `Leash.Worker.info/1` and
  `Leash.Worker.stop/2` accept them on this node.

  ## Options

  #{Schema.docs(@list)}
  Raises `Leash.OptionsError` if an option is wrong. Then no node is asked.
  """
  @spec list([list_option()]) :: %{node() => {:ok, [map()]} | {:error, failure()}}
  def list(options \\ []) do
    options = validate!(@list, options)
    ask(options.nodes, options.timeout, :list, [])
  end

  @doc """
  Sweeps every node, as `Leash.sweep/1` does.

  A node sees the processes of its own machine. Several nodes on one machine find the same
  processes. Then one of the nodes reports what it ended.

  ## Options

  #{Schema.docs(@sweep)}
  Raises `Leash.OptionsError` if an option is wrong. Then no node is asked.
  """
  @spec sweep([sweep_option()]) :: %{node() => {:ok, Sweep.t()} | {:error, failure() | term()}}
  def sweep(options \\ []) do
    {options, handed_on} = split!(@sweep, options)
    ask(options.nodes, options.timeout, :sweep, [handed_on])
  end

  @doc """
  Ends a group, or `:all`, on every node, as `Leash.stop_all/2` does.

  `{:ok, stopped}` of a node means that nothing of the group is left there. `{:error, stopped}`
  with a list means that something is left. The deadline runs on all nodes at the same time.
  Groups of the same name on several nodes count as one.

  ## Options

  #{Schema.docs(@stop_all)}
  Raises `Leash.OptionsError` if the group or an option is wrong. Then no node is asked.
  """
  @spec stop_all(Leash.group() | :all, [stop_all_option()]) ::
          %{node() => {:ok, [Leash.stopped()]} | {:error, [Leash.stopped()] | failure()}}
  def stop_all(group \\ :all, options \\ []) do
    if group != :all and not Group.valid?(group),
      do: Schema.refuse!(:group, ":all, or a group: an atom, a string or a tuple", group)

    {options, handed_on} = split!(@stop_all, options)
    ask(options.nodes, options.timeout, :stop_all, [group, handed_on])
  end

  @doc false
  @spec nodes(term()) :: {:ok, [node()]} | {:error, String.t()}
  def nodes(nodes) do
    if is_list(nodes) and List.improper?(nodes) == false and Enum.all?(nodes, &node?/1),
      do: {:ok, nodes},
      else: {:error, @nodes[:type_doc]}
  end

  defp node?(node), do: is_atom(node) and node not in [nil, true, false]

  defp validate!(schema, options) do
    options = Schema.unwrap!(Schema.validate(schema, options))
    %{options | nodes: Enum.uniq(options.nodes || [node() | Node.list()])}
  end

  # Leash's own options are handed on with their defaults, those of this node on all nodes.
  defp split!(schema, options) do
    options = validate!(schema, options)
    {own, rest} = Map.split(options, [:nodes, :timeout])
    {%{own | timeout: own.timeout || options.deadline + @slack_ms}, Map.to_list(rest)}
  end

  @doc false
  # Runs on the node that is asked.
  @spec answer(:list | :sweep | :stop_all, [term()]) :: term()
  def answer(what, arguments) do
    case {Run.fetch(), what} do
      {{:error, reason}, _what} -> {:error, reason}
      {{:ok, _run}, :list} -> {:ok, apply(Leash, :list, arguments)}
      {{:ok, _run}, what} -> apply(Leash, what, arguments)
    end
  end

  # erpc:multicall/5 sends one request after the other. Each sets up a missing connection, for up
  # to net_setuptime (7 s) beyond any timeout.
  defp ask(nodes, timeout, what, arguments) do
    # The deadline for all: an asker's own timeout does not cover the setup of a connection.
    deadline = now() + timeout

    nodes
    |> Enum.map(fn node ->
      {node, spawn_monitor(fn -> exit({:answer, call(node, timeout, what, arguments)}) end)}
    end)
    |> Map.new(fn {node, asker} -> {node, await(asker, deadline)} end)
  end

  defp await({pid, monitor}, deadline) do
    receive do
      {:DOWN, ^monitor, :process, ^pid, {:answer, answer}} -> answer
      {:DOWN, ^monitor, :process, ^pid, reason} -> {:error, {:exit, reason}}
    after
      max(deadline - now(), 0) ->
        Process.exit(pid, :kill)
        Process.demonitor(monitor, [:flush])
        {:error, :timeout}
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp call(node, timeout, what, arguments) do
    :erpc.call(node, __MODULE__, :answer, [what, arguments], timeout)
  catch
    :error, {:erpc, reason} when reason in [:timeout, :noconnection] ->
      {:error, reason}

    :error, {:exception, :undef, [{module, function, _arguments, _where} | _]}
    when {module, function} == {__MODULE__, :answer} ->
      {:error, :undef}

    :error, {:exception, reason, _stacktrace} ->
      {:error, {:exception, reason}}

    :exit, {:exception, reason} ->
      {:error, {:exit, reason}}

    :exit, {:signal, reason} ->
      {:error, {:exit, reason}}

    :error, reason ->
      {:error, {:exception, reason}}

    :throw, reason ->
      {:error, {:throw, reason}}
  end
end
