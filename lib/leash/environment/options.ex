defmodule Leash.Environment.Options do
  # The options of a program's environment.
  @moduledoc false

  alias Leash.Schema

  @env "pairs of a name (no \"=\", no NUL, not LEASH_RUN) and a UTF-8 string or nil, or :clear"

  @names "true, false, or a list of names (no \"=\", no NUL, not LEASH_RUN)"

  @doc "The option `:env`."
  @spec env() :: keyword()
  def env do
    [
      type: {:custom, __MODULE__, :env, []},
      type_doc: @env,
      type_spec:
        quote(
          do:
            %{optional(String.t()) => String.t() | nil}
            | [{String.t(), String.t() | nil}]
            | :clear
        ),
      default: [],
      doc:
        "Variables to set, or with `nil` to unset, on top of the VM's environment. An empty " <>
          "string is an empty value. `:clear` is `clear_env: true` without variables."
    ]
  end

  @doc "The option `:clear_env`."
  @spec clear_env() :: keyword()
  def clear_env do
    [
      type: {:custom, __MODULE__, :names, []},
      type_doc: @names,
      type_spec: quote(do: boolean() | [String.t()]),
      default: false,
      doc:
        "`true`: the program gets the variables of `:env` alone. A list: also those variables " <>
          "of the VM, if they are set. `LEASH_RUN` is always set, because it tells which run " <>
          "a process belongs to (not with `on_exit: :detach`)."
    ]
  end

  @doc false
  @spec env(term()) ::
          {:ok, [{String.t(), String.t() | nil}] | :clear} | {:error, String.t()}
  def env(:clear), do: {:ok, :clear}
  def env(env) when is_map(env) and not is_struct(env), do: env(Map.to_list(env))

  def env(env) do
    case wrong_variable(env) do
      nil -> {:ok, env}
      {:wrong, wrong} -> {:error, @env <> blame(wrong)}
    end
  end

  @doc false
  @spec names(term()) :: {:ok, boolean() | [String.t()]} | {:error, String.t()}
  # An empty list keeps none.
  def names([]), do: {:ok, true}
  def names(names) when is_boolean(names), do: {:ok, names}

  def names(names) do
    if is_list(names) and not List.improper?(names) and Enum.all?(names, &name?/1),
      do: {:ok, names},
      else: {:error, @names}
  end

  defp wrong_variable([]), do: nil

  defp wrong_variable([variable | rest]),
    do: if(variable?(variable), do: wrong_variable(rest), else: {:wrong, variable})

  defp wrong_variable(no_list), do: {:wrong, no_list}

  defp variable?({name, value}), do: name?(name) and value?(value)
  defp variable?(_other), do: false

  defp name?(name) do
    Schema.text?(name) and String.valid?(name) and name != "LEASH_RUN" and
      :binary.match(name, "=") == :nomatch
  end

  defp value?(value), do: value in [nil, ""] or (Schema.text?(value) and String.valid?(value))

  # Values tend to be secrets.
  defp blame({name, _value}) do
    if name?(name),
      do: "; the value of #{inspect(name)} is no string",
      else: "; #{inspect(name)} is no name#{meant(name)}"
  end

  defp blame(_other), do: ""

  defp meant(name) when is_atom(name) and name != nil, do: ", did you mean \"#{name}\"?"
  defp meant(_name), do: ""
end
