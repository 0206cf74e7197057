defmodule Leash.Detached do
  # Trees that outlive their VM on purpose (`on_exit: :detach`): their names, and the search for
  # them.
  #
  # No file keeps them. Name, run and number are on the shim's own command line, and the shim
  # lives as long as its tree. native/PROTOCOL.md, section 6, says which processes are believed.
  @moduledoc false

  alias Leash.{Native, OptionsError, Registry, Schema}

  # The limit of the shim.
  @longest 200

  @typedoc """
  A living tree, as its shim describes it.

  `owner` is the state of the VM that started it. `own` is true if that is this VM.
  """
  @type tree :: %{
          name: binary(),
          run_id: Leash.RunId.t(),
          worker: pos_integer(),
          depth: 0..7,
          shim_pid: pos_integer(),
          start_ticks: non_neg_integer(),
          pidfs_inode: non_neg_integer() | nil,
          os_pid: pos_integer() | nil,
          owner_pid: pos_integer() | nil,
          owner: :alive | :gone | :unknown | atom(),
          own: boolean(),
          patience_ms: non_neg_integer() | nil,
          command: [binary()],
          age_ms: non_neg_integer()
        }

  @doc """
  Returns the text by which another VM finds a name, even with another version of Elixir.
  """
  @spec text(GenServer.name() | String.t()) :: String.t()
  def text(name) when is_binary(name), do: name

  def text(name) do
    # Each of these options has a default that cuts, breaks lines or depends on the version.
    inspect(name,
      limit: :infinity,
      printable_limit: :infinity,
      width: :infinity,
      charlists: :as_lists
    )
  end

  @doc "Returns whether a text can be a name."
  @spec text?(term()) :: boolean()
  def text?(text), do: Schema.text?(text) and byte_size(text) <= @longest

  @doc "Checks the options of a worker that outlives its VM."
  @spec check(map()) :: :ok | {:error, OptionsError.t()}
  def check(options) do
    cond do
      options.name == nil or not text?(text(options.name)) ->
        refuse(:name, "a name of at most #{@longest} bytes, to find it again by,", options.name)

      not options.mark ->
        refuse(:mark, "true", false)

      options.stdin == :pipe ->
        refuse(:stdin, ":null or :open", :pipe)

      options.stdout == :output ->
        refuse(:stdout, "{:file, path} or :null", :output)

      options.stderr == :output ->
        refuse(:stderr, "{:file, path}, :null or :stdout", :output)

      is_struct(options.ready, Regex) ->
        refuse(:ready, "no regex, since no output comes here,", options.ready)

      true ->
        :ok
    end
  end

  defp refuse(key, expected, value),
    do: Schema.error(key, expected <> " beside on_exit: :detach", value)

  @doc "Returns all detached trees of this user, ordered by the pids of their shims."
  @spec all() :: {:ok, [tree()], complete? :: boolean()} | {:error, term()}
  def all do
    with {:ok, %{trees: trees, complete: complete?}} <- Native.detached(),
         do: {:ok, Enum.sort_by(trees, & &1.shim_pid), complete?}
  end

  @doc """
  Returns the tree of a name if this VM may take it over.
  """
  @spec find(binary()) ::
          {:ok, tree()}
          | {:error,
             :not_found
             | :incomplete
             | {:ambiguous, [pos_integer()]}
             | {:detached_elsewhere, map()}
             | term()}
  def find(text) do
    with {:ok, trees, complete?} <- all() do
      case Enum.filter(trees, &(&1.name == text)) do
        [] -> {:error, if(complete?, do: :not_found, else: :incomplete)}
        [tree] -> if elsewhere?(tree), do: {:error, elsewhere(tree)}, else: {:ok, tree}
        several -> {:error, {:ambiguous, Enum.map(several, &(&1.os_pid || &1.shim_pid))}}
      end
    end
  end

  # If it cannot be seen whether the owner lives, then its worker is not taken away.
  defp elsewhere?(tree),
    do: tree.owner_pid != nil and not tree.own and tree.owner in [:alive, :unknown]

  defp elsewhere(tree),
    do: {:detached_elsewhere, Map.take(tree, [:owner_pid, :os_pid, :shim_pid, :run_id, :worker])}

  @doc "Returns what `Leash.Worker.detached/0` returns."
  @spec list() :: [map()]
  def list do
    case all() do
      {:ok, trees, _complete?} -> Enum.map(trees, &listed/1)
      {:error, _no_proc} -> []
    end
  end

  defp listed(tree) do
    tree
    |> Map.take([:name, :run_id, :worker, :os_pid, :shim_pid, :owner_pid])
    |> Map.put(:owner_alive?, alive?(tree.owner))
  end

  defp alive?(:alive), do: true
  defp alive?(:gone), do: false
  defp alive?(_unknown), do: nil

  @doc "Opens a pidfd of the shim, if the shim still is that of the tree."
  @spec open(tree()) :: {:ok, Native.fd()} | {:error, term()}
  def open(tree) do
    Native.detached_open(
      tree.shim_pid,
      tree.start_ticks,
      tree.pidfs_inode,
      tree.run_id,
      tree.worker
    )
  end

  @doc "Returns whether a row of the table belongs to this very tree."
  @spec of?(Registry.row(), tree(), Leash.RunId.t()) :: boolean()
  def of?(%{outlives: nil}, _tree, _own), do: false

  def of?(%{outlives: :own, number: number}, tree, own),
    do: {own, number} == {tree.run_id, tree.worker}

  def of?(%{outlives: other}, tree, _own),
    do: {other.run_id, other.worker, other.shim_pid} == {tree.run_id, tree.worker, tree.shim_pid}
end
