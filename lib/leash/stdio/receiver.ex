defmodule Leash.Stdio.Receiver do
  # What gets a Worker's output: the values of `:on_output` and `:on_stderr`.
  @moduledoc false

  alias Leash.{OptionsError, Schema}

  @into "a Collectable that has an effect, such as File.stream!/1 (no process gets the result)"

  @levels [:debug, :info, :notice, :warning, :error, :critical, :alert, :emergency]

  @log Schema.new(
         level: [
           type: {:or, [nil, {:in, @levels}]},
           doc: "The level of stdout (`:info`), and of stderr if this is `:on_stderr`."
         ],
         stderr: [
           type: {:or, [nil, {:in, @levels}]},
           doc: "The level of stderr (`:warning`)."
         ],
         prefix: [
           type: {:or, [nil, {:custom, __MODULE__, :prefix, []}]},
           type_doc: "a string of UTF-8",
           type_spec: quote(do: String.t()),
           doc: "What stands before each line. The default is the label, `\": \"` after it."
         ],
         metadata: [
           type: {:custom, __MODULE__, :metadata, []},
           type_doc: "a keyword list",
           type_spec: quote(do: keyword()),
           default: [],
           doc: "Metadata of each line, besides the worker's own."
         ]
       )

  @typedoc "An option of `{:log, options}`."
  @type log_option :: unquote(Schema.typespec(@log))

  @doc "The options of `{:log, options}`, as documentation."
  @spec log_docs() :: String.t()
  def log_docs, do: Schema.docs(@log)

  @doc "The types of the option. The common ones come first, and need no call."
  @spec types() :: [Schema.type()]
  def types, do: [{:in, [:log]}, :pid, {:fun, 2}, {:custom, __MODULE__, :check, []}]

  @spec expected() :: String.t()
  def expected,
    do: ":log, {:log, options}, a pid, a function of two arguments or {:into, collectable}"

  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      :log
      | {:log, [unquote(Schema.typespec(@log))]}
      | pid()
      | (:stdout | :stderr, binary() -> term())
      | {:into, Collectable.t()}
    end
  end

  @doc false
  @spec check(term()) ::
          {:ok, {:into, Collectable.t()} | {:log, map()}}
          | {:error, String.t() | OptionsError.t()}
  def check({:into, collectable}) do
    cond do
      is_list(collectable) or is_bitstring(collectable) or plain_map?(collectable) ->
        Schema.error(:into, @into, collectable)

      Collectable.impl_for(collectable) == nil ->
        Schema.error(:into, "a value that implements Collectable", collectable)

      true ->
        {:ok, {:into, collectable}}
    end
  end

  def check({:log, options}) do
    with {:ok, options} <- Schema.validate(@log, options), do: {:ok, {:log, options}}
  end

  def check(_other), do: {:error, expected()}

  @doc false
  @spec prefix(term()) :: {:ok, String.t()} | {:error, String.t()}
  def prefix(prefix) do
    if is_binary(prefix) and String.valid?(prefix),
      do: {:ok, prefix},
      else: {:error, "a string of UTF-8"}
  end

  @doc false
  @spec metadata(term()) :: {:ok, keyword()} | {:error, String.t()}
  def metadata(metadata),
    do: if(Keyword.keyword?(metadata), do: {:ok, metadata}, else: {:error, "a keyword list"})

  defp plain_map?(term), do: is_map(term) and not is_struct(term)
end
